"""Live: a bounded disk that is read straight into memory which others have, such as a training's tensors.

Read into memory of its own and copied from there, a warm restore would take half as long again. So what was left behind
may still write to that memory, should the disk ever answer: before it has ended nothing may be restored in this process
(`check_untouched`), which a save after a restore that ended halfway asks for.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any, Protocol, TypeVar, runtime_checkable

from asyncckpt.errors import StorageError, TransientError
from asyncckpt.storage import bounded
from asyncckpt.storage.aside import OpenedAside
from asyncckpt.storage.base import Opened, Storage
from asyncckpt.storage.bounded import Asked, BoundedReading, Disk

_T = TypeVar("_T")

_THREADS = 4
_left: set[futures.Future[Any]] = set()


@runtime_checkable
class Waiting(Protocol):
    """A store whose open objects are read in threads that nobody waits for once they go on no more."""

    def each(self, what: str, act: Callable[[_T], None], todo: Iterable[_T]) -> None:
        """`act`, which reads, on each of `todo`, in several threads; they have ended when this returns or raises.

        Raises the first error of them, and `TransientError` where they are left behind.
        """
        ...


class BoundedLive(BoundedReading):
    """One that is; what is opened here is read in the threads of `each`."""

    def __init__(self, inner: Storage, disk: Disk) -> None:
        super().__init__(inner, disk)
        self._moves = 0

    def open(self, key: str) -> Opened:
        """See `Opening.open`."""
        opened = self.waited(f"open {key}", lambda asked: self._disk.open(key), undo=lambda late: late.close())
        return _OpenedInPlace(opened, functools.partial(self._read, f"get {key}"), self._closed, self._moved)

    def each(self, what: str, act: Callable[[_T], None], todo: Iterable[_T]) -> None:
        """See `Waiting.each`."""
        self.check()
        work, failed = deque(enumerate(todo)), dict[int, Exception]()
        asked, moves = Asked(what), self._moves
        under_way = {self._threads.pool.submit(_drain, act, work, failed) for _ in range(min(_THREADS, len(work)))}
        try:
            while under_way and self._patience > asked.still:
                look = min(bounded.LOOK, self._patience - asked.still)
                _, under_way = futures.wait(under_way, look, return_when=futures.FIRST_COMPLETED)
                if moves != self._moves:
                    moves = self._moves
                    asked.goes_on()
        except BaseException:  # whoever interrupts it goes on with that memory
            work.clear()
            _, under_way = futures.wait(under_way, min(bounded.HURRY, bounded.PATIENCE))
            if under_way:
                self._abandon(asked, under_way)
            raise
        if under_way:
            work.clear()
            raise self._abandon(asked, under_way)
        if failed:
            raise failed[min(failed)]

    def _abandon(self, asked: Asked, under_way: Iterable[futures.Future[None]]) -> StorageError:
        for each in under_way:
            _left.add(each)
            each.add_done_callback(_left.discard)
        first, *_ = [self._leave(asked, each) for each in under_way]
        return first

    def _moved(self) -> None:
        self._moves += 1
        self.check()  # what was left behind reads no more than what held it


class _OpenedInPlace(OpenedAside):
    """One whose bytes come to where they belong; `moved` is told of each that has come."""

    def __init__(
        self,
        opened: Opened,
        wait: Callable[[Callable[[], None]], None],
        begin: Callable[[Callable[[], None]], None],
        moved: Callable[[], None],
    ) -> None:
        super().__init__(opened, wait, begin)
        self._moved = moved

    def fill(self, into: memoryview, start: int) -> None:
        """See `Opened.fill`."""
        self._read(into, start)
        self._moved()


def check_untouched() -> None:
    """Raise `TransientError` where what was left behind may still write to memory that something is restored to."""
    if _left:
        raise TransientError(
            "a read of a disk that hangs was given up, and may still write to what is restored here: nothing is "
            "restored in this process before that has ended; mend the disk, or start another process"
        )


def bounded_live(storage: Storage) -> Storage:
    """`storage`, bounded where it is a disk, for whoever restores a training from it."""
    return BoundedLive(storage, storage) if isinstance(storage, Disk) else storage


def _drain(act: Callable[[_T], None], work: deque[tuple[int, _T]], failed: dict[int, Exception]) -> None:
    while work:
        try:
            number, item = work.popleft()
        except IndexError:  # another thread has taken the last
            return
        try:
            act(item)
        except Exception as error:  # whoever waits for all of them is told
            failed[number] = error
            work.clear()
