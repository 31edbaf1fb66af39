"""Stopped: the end of an event loop on which something may be held that nothing takes back."""

from __future__ import annotations

import asyncio
from typing import Any

HELD = 5.0
"""Seconds after which what was cancelled and has not ended is held by a disk that hangs, and nobody waits for it."""


async def stopped() -> set[asyncio.Task[Any]]:
    """Cancel whatever else is under way on this loop, and wait for its end; what is held, and may never end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if not others:
        return set()
    ended, held = await asyncio.wait(others, timeout=HELD)
    for task in ended:
        if not task.cancelled():
            task.exception()  # seen: whoever had asked for it waits no more
    return held
