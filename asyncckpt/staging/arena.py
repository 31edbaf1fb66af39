"""Arena: host memory that becomes a file without another copy. Page-aligned, reused, within a budget.

Memory is faulted in once, in the background: a first touch costs 0.9 s per GiB here, and 3 s where the host of the
virtual machine has to find it first, which is more than the copy itself. On Linux the memory is a memfd, which
another process can map and which no limit of /dev/shm bounds; elsewhere it is anonymous.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch

from asyncckpt.errors import SaveFailed
from asyncckpt.levels import Memory

PAGE = 4096
_STRIDE = 16 << 20
_numbers = itertools.count(1)


class Arena:
    """`capacity` bytes of host memory, a multiple of the page size."""

    def __init__(self, capacity: int) -> None:
        self.id = f"arena-{next(_numbers)}"
        self.capacity = -(-max(capacity, 1) // PAGE) * PAGE
        self.view = memoryview(_map(self.capacity))
        self.tensor = torch.frombuffer(self.view, dtype=torch.uint8)

    def prefault(self, stop: threading.Event) -> None:
        """Make every page resident and writable, without the GIL, until `stop` is set.

        Bytes stay as they are: the arena may be in use by the time a background thread comes to it. Pages are read
        one by one, which takes the lock of this mapping only. MADV_POPULATE_WRITE is a third faster where memory is
        warm, but keeps the process's memory map locked: a training thread that asks for memory waited 12-16 ms.
        """
        for start in range(0, self.capacity, _STRIDE):
            if stop.is_set():
                return
            self.tensor[start : start + _STRIDE : PAGE].max()


def _map(size: int) -> mmap.mmap:
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        fd = os.memfd_create("asyncckpt-arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            memory = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        # A forked data loader must not keep gigabytes of snapshot mapped.
        memory.madvise(mmap.MADV_DONTFORK)
        return memory
    return mmap.mmap(-1, size)


class ArenaPool:
    """The generations of one checkpointer: at most `generations` arenas, together within `budget` bytes."""

    def __init__(self, generations: int, budget: int | None, degraded: Callable[[str], None]) -> None:
        self._generations = generations
        self._budget = budget
        self._degraded = degraded
        self._changed = threading.Condition()
        self._capacity = 0
        self._free: list[Arena] = []
        self._leased: dict[str, Arena] = {}
        self._closed = False

    def generations(self, size: int) -> int:
        """How many arenas of `size` bytes the budget holds; raises `SaveFailed` if that is none."""
        if self._budget is None:
            return self._generations
        fit = min(self._generations, self._budget // size)
        if fit < 1:
            raise SaveFailed(
                f"a snapshot needs {size:,} bytes of staging memory, the budget is {self._budget:,}: "
                f"raise budget= to at least {size:,}, or save less"
            )
        if fit < self._generations:
            self._degraded(f"{self._generations} generations of {size:,} bytes exceed budget={self._budget:,}")
        return fit

    def lease(self, size: int, *, wait: bool = False) -> Arena | None:
        """An arena of at least `size` bytes, or None if every generation is in use (and `wait` is off)."""
        size = -(-size // PAGE) * PAGE
        limit = self.generations(size)
        with self._changed:
            while not self._closed and not (len(self._leased) < limit and self._affords(size, self._leased.values())):
                if not wait:
                    return None
                self._changed.wait()
            self._keep_fitting(size, limit)
            self._capacity = size * limit
            arena = self._free.pop(0) if self._free else Arena(size)
            self._leased[arena.id] = arena
            return arena

    def _affords(self, size: int, held: Iterable[Arena]) -> bool:
        return self._budget is None or sum(arena.capacity for arena in held) + size <= self._budget

    def _keep_fitting(self, size: int, limit: int) -> None:
        """Drop free arenas from before the state's size changed: too small, or too large for `limit` of them."""
        most = sys.maxsize if self._budget is None else self._budget // limit
        self._free = [arena for arena in self._free if size <= arena.capacity <= most]

    def release(self, arena: Arena) -> None:
        """The arena's bytes are needed no more."""
        with self._changed:
            self._leased.pop(arena.id, None)
            if not self._closed:
                self._free.insert(0, arena)  # leased next: it is resident for certain
            self._changed.notify_all()

    def memory(self) -> Memory:
        """How full it is now. Takes no lock: the training thread must never wait for a scrape."""
        used, free = tuple(self._leased.values()), tuple(self._free)
        return Memory(sum(a.capacity for a in used), sum(a.capacity for a in free), self._capacity)

    def spares(self, size: int) -> list[Arena]:
        """New free arenas of at least `size` bytes, all that the generations still allow, to be faulted in by now."""
        limit = self.generations(size)
        with self._changed:
            self._keep_fitting(size, limit)
            room = 0 if self._closed else limit - len(self._free) - len(self._leased)
            made: list[Arena] = []
            with suppress(OSError, MemoryError):  # no memory: the save that needs it will say so
                for _ in range(room):
                    if self._affords(size, (*self._leased.values(), *self._free, *made)):
                        made.append(Arena(size))
            self._free += made
            return made

    def close(self) -> None:
        """Drop what is free; leased arenas go when they are released."""
        with self._changed:
            self._closed = True
            self._free.clear()
            self._changed.notify_all()
