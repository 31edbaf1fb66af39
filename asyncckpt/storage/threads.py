"""Threads: where blocking calls run, so that no event loop ever waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

from asyncckpt.storage.daemons import Daemons, beside
from asyncckpt.storage.reasons import translated

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")

_COUNT = 4  # buffered cold reads stop gaining at two to four; writes need one


class Threads:
    """A few threads of one storage, usable from any number of event loops."""

    def __init__(self, count: int = _COUNT) -> None:
        self.pool = Daemons(count, "asyncckpt-io")

    async def call(self, path: str, function: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        """Run `function` in a thread; its OSError is raised translated, naming `path`.

        It runs to its end even when the caller is cancelled, who is told only then.
        """
        with translated(path):
            work = asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)
        return await self.settled(path, work)

    async def settled(self, path: str, work: Awaitable[_T]) -> _T:
        """Wait until `work` is over, also through a cancellation, and translate its OSError."""
        with translated(path):
            return await settled(work)

    async def aclose(self) -> None:
        """Waits for what is under way; the interpreter's end does not wait with it, where that hangs."""
        await beside(self.pool.shutdown)


async def settled(work: Awaitable[_T]) -> _T:
    """What `work` comes to, which uses memory of whoever waits: who is cancelled, however often, goes on after it."""
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            # A thread still uses the descriptor and the buffer: the caller must not close or reuse them yet.
            cancelled = error
    if cancelled is None:
        return future.result()
    if not future.cancelled():
        future.exception()  # seen: asyncio would complain about one that nobody asked for
    raise cancelled
