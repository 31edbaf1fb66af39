"""Pulse: how a rank that waits for rank 0 tells a long save from a process that is no more.

While rank 0 has a save in hand, it says so again and again. A rank waits for as long as that goes on, however
many hours a slow store takes, and gives up when it stops.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

from asyncckpt.errors import RankMissing
from asyncckpt.worker.ranks import Ranks, pulse_key, tell

_BEATS = 4
"""So many in one deadline, so that one that is late is no death."""
_FIRST_LOOK = 0.005
_SLOWEST_LOOK = 0.25


async def beat(ranks: Ranks, in_hand: Callable[[], Iterable[int]]) -> None:
    """Rank 0: for ever say which saves are `in_hand`, by number. Ends at once where nobody listens."""
    if ranks.world == 1:
        return
    for count in itertools.count():
        await asyncio.sleep(ranks.deadline / _BEATS)
        for ordinal in in_hand():
            tell(ranks, pulse_key(ordinal), {"beat": count})


async def hear(ranks: Ranks, key: str, ordinal: int, threads: Executor) -> dict[str, Any]:
    """Every other rank: what rank 0 says of save number `ordinal` under `key`.

    Raises `RankMissing` once rank 0 has not had that save in hand for a whole deadline, or cannot be heard at all.
    """
    try:
        return await _listen(ranks, key, ordinal, threads)
    except ConnectionError as error:
        raise RankMissing(f"rank 0 cannot be heard any more: {error}", [0]) from error


async def _listen(ranks: Ranks, key: str, ordinal: int, threads: Executor) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + ranks.deadline, _FIRST_LOOK
    sign: dict[str, Any] | None = None
    while (said := await loop.run_in_executor(threads, ranks.peek, key)) is None:
        if loop.time() > deadline:
            former, sign = sign, await loop.run_in_executor(threads, ranks.peek, pulse_key(ordinal))
            if sign == former:
                raise RankMissing(f"rank 0 said nothing about {key} and gave no sign in {ranks.deadline:g} s", [0])
            deadline = loop.time() + ranks.deadline
        await asyncio.sleep(pause)
        pause = min(2 * pause, _SLOWEST_LOOK)
    return said
