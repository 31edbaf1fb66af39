"""Arena: host memory that becomes a file without another copy. Page-aligned, reused, within a budget.

Memory is faulted in once, in the background: a first touch costs 0.35 s per GiB here (0.6 s page by page), which
is more than the copy itself. On Linux the memory is a memfd, which another process can map and which no limit
of /dev/shm bounds; elsewhere it is anonymous.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import sys
import threading
from collections.abc import Callable

import torch

from asyncckpt.errors import SaveFailed

PAGE = 4096
_STRIDE = 64 << 20
_MADV_POPULATE_WRITE = 23
_numbers = itertools.count(1)


class Arena:
    """`capacity` bytes of host memory, a multiple of the page size."""

    def __init__(self, capacity: int) -> None:
        self.id = f"arena-{next(_numbers)}"
        self.capacity = -(-max(capacity, 1) // PAGE) * PAGE
        self.view = memoryview(_map(self.capacity))
        self.tensor = torch.frombuffer(self.view, dtype=torch.uint8)
        self.prefaulted = False

    def prefault(self) -> None:
        """Make every page resident, without the GIL; a kernel that cannot do so in one call is served by hand."""
        if self.prefaulted:
            return
        for start in range(0, self.capacity, _STRIDE):
            length = min(_STRIDE, self.capacity - start)
            if not _populate(self.tensor.data_ptr() + start, length):
                self.tensor[start : start + length : PAGE].add_(0)
        self.prefaulted = True


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


def _populate(address: int, length: int) -> bool:
    """MADV_POPULATE_WRITE through ctypes, since ``mmap.madvise`` holds the GIL for its whole duration."""
    done = False
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        done = bool(libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), _MADV_POPULATE_WRITE) == 0)
    return done


class ArenaPool:
    """The generations of one checkpointer: at most `generations` arenas, together within `budget` bytes."""

    def __init__(self, generations: int, budget: int | None, degraded: Callable[[str], None]) -> None:
        self._generations = generations
        self._budget = budget
        self._degraded = degraded
        self._changed = threading.Condition()
        self._free: list[Arena] = []
        self._leased: set[str] = set()
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
            while len(self._leased) >= limit and not self._closed:
                if not wait:
                    return None
                self._changed.wait()
            arena = self._fitting(size)
            self._leased.add(arena.id)
            return arena

    def _fitting(self, size: int) -> Arena:
        for arena in self._free:
            if arena.capacity >= size:
                self._free.remove(arena)
                return arena
        # The state grew: what is free is too small for good, and would only eat the budget.
        self._free.clear()
        return Arena(size)

    def release(self, arena: Arena) -> None:
        """The arena's bytes are needed no more."""
        with self._changed:
            self._leased.discard(arena.id)
            if not self._closed:
                self._free.append(arena)
            self._changed.notify_all()

    def spares(self, size: int) -> list[Arena]:
        """Free arenas of at least `size` bytes to fault in ahead of their use, all that the generations allow."""
        with self._changed:
            self._free = [arena for arena in self._free if arena.capacity >= size]
            room = 0 if self._closed else self.generations(size) - len(self._free) - len(self._leased)
            self._free += [Arena(size) for _ in range(room)]
            return [arena for arena in self._free if not arena.prefaulted]

    def close(self) -> None:
        """Drop what is free; leased arenas go when they are released."""
        with self._changed:
            self._closed = True
            self._free.clear()
            self._changed.notify_all()
