"""Probing: whether a server heeds ``If-None-Match: *``. Some answer as if they did, and overwrite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from asyncckpt.errors import ObjectExists

Create: TypeAlias = Callable[[], Awaitable[None]]
"""Creates one and the same object; raises `ObjectExists` where it is there."""

_RACERS = 2


async def is_ignored(second: Create, race: Create) -> str | None:
    """Why creates do not exclude each other, or None if they do.

    `second` creates what is there, `race` what is not.
    """
    if await _succeeds(second):
        return "the server ignores If-None-Match: a second create succeeded"
    if sum(await asyncio.gather(*(_succeeds(race) for _ in range(_RACERS)))) != 1:
        return "the server heeds If-None-Match only after a while: two creates at once succeeded"
    return None


async def _succeeds(create: Create) -> bool:
    try:
        await create()
    except ObjectExists:
        return False
    return True
