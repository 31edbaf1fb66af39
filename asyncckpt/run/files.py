"""Files: the small objects of a run, through the same storage as its checkpoints, for code that is not asynchronous.

Nobody waits for a disk that hangs: what has not gone on for a minute raises, and says what is known of it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from asyncckpt.errors import ObjectNotFound
from asyncckpt.storage import opened
from asyncckpt.storage.base import PutMode, Storage
from asyncckpt.storage.bounded import Bounded, BoundedDisk
from asyncckpt.storage.changing import bounded_changing
from asyncckpt.storage.daemons import Daemons
from asyncckpt.storage.reasons import translated
from asyncckpt.storage.recipe import made, recipe_of
from asyncckpt.storage.stopped import unheld

_T = TypeVar("_T")


class Files:
    """Reads and writes under `root`; every method is for any thread, one that runs an event loop included."""

    def __init__(self, root: str | os.PathLike[str] | Storage, options: Mapping[str, Any] | None) -> None:
        self.storage = _own(root, options)
        self._bounded = bounded_changing(self.storage)
        self._is_ours = self.storage is not root
        self._thread = Daemons(1, "asyncckpt-run")
        self._lock = threading.Lock()
        self._is_closed = False

    def do(self, work: Callable[[Storage], Coroutine[Any, Any, _T]]) -> _T:
        """What `work` with the storage returns or raises."""
        return self.begin(work).result()

    def begin(self, work: Callable[[Storage], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """`do` without waiting; works are done one after the other."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError(f"the run in {self.storage.url} is closed")
            return self._thread.submit(lambda: unheld(work(self._bounded), "asyncckpt-run"))

    def waited(self, what: str, act: Callable[[], _T], undo: Callable[[_T], None]) -> _T:
        """What `act` on the disk of a run in a folder returns or raises, here and now; done too late, it is undone."""
        disk = self._bounded
        return disk.waited(what, lambda asked: act(), undo) if isinstance(disk, BoundedDisk) else act()

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None where there is none."""
        return self.do(lambda storage: got(storage, key))

    def put(self, key: str, data: bytes, mode: PutMode = "overwrite") -> None:
        """Write an object, whole and durable when this returns; raises `StorageError`."""
        self.do(lambda storage: _put(storage, key, data, mode))

    def close(self) -> None:
        """Wait for what was begun, and let go; what a disk holds that hangs is left to itself."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        try:
            if self._is_ours:
                self._thread.submit(lambda: unheld(self._bounded.aclose(), "asyncckpt-run")).result()
        finally:
            self._thread.shutdown()


def _own(root: str | os.PathLike[str] | Storage, options: Mapping[str, Any] | None) -> Storage:
    """A storage of our own where that can be had: a checkpointer closes the one that it was given, before the run."""
    if not isinstance(root, str | os.PathLike) and options is None and (recipe := recipe_of(root)) is not None:
        return made(recipe)
    return opened(root, options)


async def got(storage: Storage, key: str) -> bytes | None:
    """The object's bytes, or None where there is none."""
    with suppress(ObjectNotFound):
        return bytes(await storage.get(key))
    return None


async def blocking(storage: Storage, what: str, act: Callable[[], _T]) -> _T:
    """What `act`, which is `what` is asked of the folder of a run, returns; its OSError is raised translated."""
    if isinstance(storage, Bounded):
        return await storage.blocking(what, act)
    with translated(storage.url):
        return await asyncio.to_thread(act)


async def _put(storage: Storage, key: str, data: bytes, mode: PutMode) -> None:
    await storage.put(key, [data], mode=mode)
