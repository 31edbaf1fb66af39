"""Abandoning: giving up a save that is being written, because there is time for another one only."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from asyncckpt.errors import SaveSuperseded

_T = TypeVar("_T")


class Abandoning(Generic[_T]):
    """What one service writes now. Once that is over, and its record may be on its way, nothing holds it up."""

    def __init__(self) -> None:
        self._writing: tuple[str, asyncio.Future[_T]] | None = None
        self._given_up: dict[str, SaveSuperseded] = {}

    def abandon(self, job: str, by_step: int) -> None:
        """Write no more of `job`, if that is what is being written; on the loop."""
        if self._writing is not None and self._writing[0] == job:
            self._given_up[job] = SaveSuperseded(f"it was given up for step {by_step}: there was no time for both")
            self._writing[1].cancel()

    async def unless_abandoned(self, job: str, writing: Coroutine[Any, Any, _T]) -> _T:
        """Carry out `writing`; raises `SaveSuperseded` once it is given up and has stopped."""
        task = asyncio.ensure_future(writing)
        task.add_done_callback(_seen)
        self._writing = (job, task)
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and (why := self._given_up.get(job)) is not None:
                raise why from None
            raise
        finally:
            self._writing = None
            self._given_up.pop(job, None)


def _seen(done: asyncio.Future[Any]) -> None:
    """What ends the loop keeps who waits from asking, and asyncio would complain."""
    if not done.cancelled():
        done.exception()
