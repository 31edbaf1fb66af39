"""Reader: the thread that asks stores, with an event loop of its own, so that no store holds up a page.

Storages keep to the loop on which they were first used, so there is one for as long as the page is served.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from asyncckpt.errors import AsyncCkptError

_T = TypeVar("_T")

ANSWER = 20.0
"""Seconds that somebody waits for an answer."""
_PATIENCE = 5.0
"""Seconds that what is under way has to end in, once the page is not served any more."""


class StoreSlow(AsyncCkptError):
    """The store has not answered in time, and nothing of it is known yet."""


class Reader:
    """Runs coroutines, for any thread; also a context manager, which ends what still runs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asyncckpt-reader", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Begin `work`; what it returns or raises is the future's."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def answer(self, work: Coroutine[Any, Any, _T], patience: float = ANSWER) -> _T:
        """What `work` returns or raises; raises `StoreSlow`, and gives it up, after `patience` seconds."""
        future = self.submit(work)
        try:
            return future.result(patience)
        except FutureTimeout:
            future.cancel()
            raise StoreSlow(f"the store has not answered for {patience:g} s: load this page again in a while") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A store that hangs must not keep the process: its thread is a daemon.
        with suppress(FutureTimeout):
            self.submit(_ended()).result(2 * _PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        if not self._thread.is_alive():
            self._loop.close()


async def _ended() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_PATIENCE)
