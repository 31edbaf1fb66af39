"""Reader: the thread in which a trainer reads the catalog and checkpoints while its service is in another process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import CheckpointerClosed
from asyncckpt.storage.base import Storage
from asyncckpt.storage.stopped import stopped

_T = TypeVar("_T")


class Reader:
    """Reads from `catalog` on an event loop of its own; the thread is started by the first call.

    What is read there may look into other `tiers` too, which are closed with it.
    """

    def __init__(self, catalog: Catalog, tiers: Iterable[Storage] = ()) -> None:
        self._catalog = catalog
        self._storages = (catalog.storage, *tiers)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._calls: set[Future[Any]] = set()
        self._is_closed = False
        self._let_go = threading.Event()
        self._is_held = False
        """Whether nothing is left to wait for, but what a disk holds that hangs."""

    def start(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Begin ``call(catalog)``. Raises `CheckpointerClosed` after `close`."""
        with self._lock:
            if self._is_closed:
                raise CheckpointerClosed("this checkpointer is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._turn, args=(self._loop,), name="asyncckpt-read", daemon=True
                )
                self._thread.start()
            told: Future[_T] = Future()
            self._calls.add(told)
            asyncio.run_coroutine_threadsafe(self._run(call, told), self._loop)
        return told

    def read(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> _T:
        """``call(catalog)``, waited for; raises what it raises, and `CheckpointerClosed` if it is cut off."""
        return self.start(call).result()

    async def _run(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]], told: Future[_T]) -> None:
        try:
            result = await call(self._catalog)
        except asyncio.CancelledError:
            told.set_exception(CheckpointerClosed("this checkpointer was closed during the call"))
        except BaseException as error:  # whatever it is is the caller's, who waits for it in another thread
            told.set_exception(error)
        else:
            told.set_result(result)
        self._calls.discard(told)

    def close(self, timeout: float | None = None) -> None:
        """Cut off what is being read, and end the thread, which is left to itself after `timeout` seconds."""
        with self._lock:
            self._is_closed, loop, thread = True, self._loop, self._thread
        if loop is not None and thread is not None and thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(loop), loop)
            if self._let_go.wait(timeout) and not self._is_held:
                thread.join()  # it is at its last line

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if held := await stopped():
            self._is_held = True
            self._let_go.set()  # before a store is closed whose threads are held
            await asyncio.wait(held)
        for storage in self._storages:
            await storage.aclose()
        await loop.shutdown_default_executor()
        loop.stop()

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()
            self._let_go.set()
