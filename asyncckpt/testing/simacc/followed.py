"""Followed: locks and queues that carry what one thread has seen to the next, as the real ones do in fact."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Any, Generic, TypeVar

from asyncckpt.testing.simacc._C import Handover

_T = TypeVar("_T")

# The real ones, whatever stands under their names meanwhile.
_RealLock = threading.Lock
_RealRLock = threading.RLock
_RealSimpleQueue = queue.SimpleQueue


class _Lock:
    """What is common to both kinds: who takes it has seen what all have seen who let it go."""

    def __init__(self) -> None:
        self._lock = self._make()
        self._seen = Handover()

    @staticmethod
    def _make() -> Any:  # since conditions use methods of an RLock that its type does not tell
        return _RealLock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        acquired: bool = self._lock.acquire(blocking, timeout)
        if acquired:
            self._seen.receive()
        return acquired

    def release(self) -> None:
        self._seen.publish()
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._lock = self._make()


class FollowedLock(_Lock):
    """As `threading.Lock`."""

    def locked(self) -> bool:
        return bool(self._lock.locked())


class FollowedRLock(_Lock):
    """As `threading.RLock`. A condition lets all of its levels go at once, which counts as a release too."""

    @staticmethod
    def _make() -> Any:
        return _RealRLock()

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())

    def _release_save(self) -> object:
        self._seen.publish()
        return self._lock._release_save()

    def _acquire_restore(self, state: object) -> None:
        self._lock._acquire_restore(state)
        self._seen.receive()


class FollowedSimpleQueue(Generic[_T]):
    """As `queue.SimpleQueue`: who gets an item has seen what its putter had seen."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Handover, _T]] = _RealSimpleQueue()

    def put(self, item: _T, block: bool = True, timeout: float | None = None) -> None:
        seen = Handover()
        seen.publish()
        self._queue.put((seen, item), block, timeout)

    def put_nowait(self, item: _T) -> None:
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> _T:
        seen, item = self._queue.get(block, timeout)
        seen.receive()
        return item

    def get_nowait(self) -> _T:
        return self.get(block=False)

    def empty(self) -> bool:
        return self._queue.empty()

    def qsize(self) -> int:
        return self._queue.qsize()
