"""Adopting: a start waits for what a worker of an earlier training in the same root has still to commit.

It serves those who restart quickly: safety is the fence's, which a worker elsewhere, or one that takes too long, meets.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

from asyncckpt.events import Fallback, Listeners

logger = logging.getLogger("asyncckpt")

_LOOK = 0.02

Family: TypeAlias = Callable[[], Collection[tuple[int, int | None]]]
"""The trainers of the same training as far as they are known by now: numbers, and when each began. It may block."""


async def drained(
    root: str,
    seconds: float,
    listeners: Listeners,
    *,
    but: Path | None = None,
    family: Family = tuple,
) -> None:
    """Return once no worker on this machine that lost its trainer is at work in `root`, or after so many seconds.

    Nobody waits for workers of the `family`: they wait for who takes the run. It is asked anew at each look, since all
    of a training may be killed right after the last of them was heard of. A worker that is left then will be fenced,
    and what it has not committed is lost: that is a `Fallback` event.
    """
    deadline = time.monotonic() + seconds
    is_told = False
    while left := await asyncio.to_thread(_orphans, root, but, family):
        if not is_told:
            logger.info("waiting for a worker that an earlier training has left: %s", left[0])
            is_told = True
        if time.monotonic() > deadline:
            reason = f"a worker of an earlier training did not end in {seconds:g} s: what it has not committed is lost"
            listeners.emit(Fallback("adoption", f"{reason} (its log: {left[0]})"))
            return
        await asyncio.sleep(_LOOK)


def _orphans(root: str, but: Path | None, family: Family) -> list[Path]:
    if sys.platform == "linux":
        from asyncckpt.worker import logs

        try:
            return logs.orphans(root, but=but, family=family())
        except OSError as error:
            logger.warning("workers that earlier trainings may have left cannot be looked for: %s", error)
    return []
