"""Crossing: an event loop in a thread of its own, and how other loops have work done there.

A client of an object store belongs to one loop, while a store is used from several. And what such a client does
(signing, checksums, copying into sockets) holds a loop up for longer than the service's own can stand.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from asyncckpt.errors import StorageError

_T = TypeVar("_T")
_Work = Callable[[], Coroutine[Any, Any, _T]]


class Crossing:
    """Runs coroutines on its own loop, whose thread, of such a `name`, starts with the first; from any number of loops.

    A process that is forked has neither, and is told so, about `what`.
    """

    def __init__(self, name: str, what: str) -> None:
        self._name = name
        self._what = what
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0

    @property
    def is_running(self) -> bool:
        """Whether anything was ever done there, by this process, and it was not closed since."""
        return self._loop is not None and self._process == os.getpid()

    async def call(self, work: _Work[_T]) -> _T:
        """What `work` returns or raises. A cancellation is passed on to it, and raised here once it has ended."""
        return await self._settled(work, passes_on=True)

    async def finish(self, work: _Work[_T]) -> _T:
        """As `call`, but `work` is carried out to its end whatever happens here."""
        return await self._settled(work, passes_on=False)

    async def _settled(self, work: _Work[_T], *, passes_on: bool) -> _T:
        here, there = asyncio.get_running_loop(), self._running()
        done: asyncio.Future[_T] = here.create_future()
        tasks: list[asyncio.Task[_T]] = []

        def begin() -> None:
            task = there.create_task(work())
            tasks.append(task)
            task.add_done_callback(tell)

        def tell(task: asyncio.Task[_T]) -> None:
            if not here.is_closed():
                here.call_soon_threadsafe(_copy, task, done)

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        there.call_soon_threadsafe(begin)
        cancelled: asyncio.CancelledError | None = None
        while not done.done():
            try:
                await asyncio.wait([done])
            except asyncio.CancelledError as error:
                # The work still uses the caller's memory, which must not be used for anything else before it ends.
                cancelled = error
                if passes_on:
                    there.call_soon_threadsafe(cancel)
        if cancelled is not None:
            if not done.cancelled():
                done.exception()  # seen: asyncio would complain about one that nobody asked for
            raise cancelled
        return done.result()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._process not in (0, os.getpid()):  # its thread is not here, and what it has open is not ours
                raise StorageError(f"{self._what}: opened by the process that this is a fork of; open it here anew")
            if self._loop is None:
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    async def aclose(self) -> None:
        """End the thread, once what it has begun has ended."""
        with self._lock:
            is_here = self.is_running
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if is_here and loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            await asyncio.to_thread(thread.join)


def _copy(task: asyncio.Task[_T], done: asyncio.Future[_T]) -> None:
    if done.done():
        return
    if task.cancelled():
        done.cancel()
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
