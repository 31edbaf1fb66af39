"""Abandoning: giving up a save that has been begun, because there is time for another one only."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from asyncckpt.errors import SaveSuperseded

_T = TypeVar("_T")


class Abandoning:
    """Of the job that one service carries out now: it can be given up until all is written that its record names.

    From then on, when the record may be on its way, nothing holds it up.
    """

    def __init__(self) -> None:
        self._job: str | None = None
        self._writing: asyncio.Future[Any] | None = None
        self._given_up: SaveSuperseded | None = None

    @contextmanager
    def until_over(self, job: str) -> Iterator[None]:
        """`job` can no longer be taken back: from now on it is given up instead, also where it is not written yet."""
        self._job = job
        try:
            yield
        finally:
            self._job = self._given_up = None

    def abandon(self, job: str, by_step: int) -> None:
        """Write no more of `job`, if that is what is being carried out; on the loop."""
        if self._job != job:
            return
        self._given_up = SaveSuperseded(f"it was given up for step {by_step}: there was no time for both")
        if self._writing is not None:
            self._writing.cancel()

    async def unless_abandoned(self, writing: Coroutine[Any, Any, _T]) -> _T:
        """Carry out `writing`; raises `SaveSuperseded` once it is given up and has stopped."""
        self._writing = task = asyncio.ensure_future(writing)
        task.add_done_callback(_seen)
        if self._given_up is not None:
            task.cancel()  # before its first step, in which nothing of it is carried out
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and self._given_up is not None:
                raise self._given_up from None
            raise
        finally:
            self._writing = None


def _seen(done: asyncio.Future[Any]) -> None:
    """What ends the loop keeps who waits from asking, and asyncio would complain."""
    if not done.cancelled():
        done.exception()
