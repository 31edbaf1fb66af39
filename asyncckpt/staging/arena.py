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

if sys.platform == "linux":
    import fcntl

from asyncckpt.allowance import Allowance
from asyncckpt.errors import SaveFailed
from asyncckpt.levels import Memory
from asyncckpt.staging.pinning import pin
from asyncckpt.worker.descriptors import MEMORY, Descriptor

PAGE = 4096
_STRIDE = 16 << 20
SHARE = 0.9
"""Of the memory that is left: the rest is for what a training allocates meanwhile."""
GROWN = 1.1
"""Times as large as it was: only then is it worth looking again how much memory there is."""
_numbers = itertools.count(1)


class Arena:
    """`capacity` bytes of host memory, a multiple of the page size.

    With a `window`, it has room for a larger state than there is memory for: what was read of it is given back to the
    system, and no more than so many bytes are ever there at once.
    """

    def __init__(self, capacity: int, window: int | None = None) -> None:
        self.id = f"arena-{next(_numbers)}"
        self.capacity = -(-max(capacity, 1) // PAGE) * PAGE
        self.window = window
        self.descriptor, self._memory = _map(self.capacity)
        """Of the memfd, for another process to map; None where there is none."""
        self.view = memoryview(self._memory)
        self.tensor = torch.frombuffer(self.view, dtype=torch.uint8)
        self._pinned: dict[str, bool] = {}
        self._pinning = threading.Lock()
        self.unpinned = ""
        """Why it could not be page-locked."""

    @property
    def cost(self) -> int:
        """Bytes of memory that it may take."""
        return self.capacity if self.window is None else self.window

    @property
    def resident(self) -> int:
        """Bytes of memory that it takes now, as far as the system tells them apart from all others."""
        if sys.platform == "linux" and self.descriptor is not None:
            return os.fstat(self.descriptor.fileno()).st_blocks * 512
        return self.cost

    def give_back(self, start: int, end: int) -> None:
        """Bytes before `end` are needed no more: whole pages of them are zero from now on, and cost nothing."""
        first, last = start // PAGE * PAGE, end // PAGE * PAGE  # what comes before `start` was given back too
        if sys.platform == "linux" and first < last:
            self._memory.madvise(mmap.MADV_REMOVE, first, last - first)

    def pin(self, kind: str) -> bool:
        """Page-lock it for devices of `kind`, once, for as long as it lives; whether that could be done."""
        if self.window is not None:
            self.unpinned = "what is given back again and again cannot be page-locked"
            return False
        with self._pinning:
            if kind not in self._pinned:
                try:
                    pin(kind, self.tensor, self)
                    self._pinned[kind] = True
                except RuntimeError as error:
                    self._pinned[kind], self.unpinned = False, str(error)
            return self._pinned[kind]

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


def _map(size: int) -> tuple[Descriptor | None, mmap.mmap]:
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        memfd = Descriptor(os.memfd_create(MEMORY, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        os.ftruncate(memfd.fileno(), size)
        # Another process that has it mapped can rely on it: a page that is gone would end it with SIGBUS.
        fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        memory = mmap.mmap(memfd.fileno(), size)
        # A forked data loader must not keep gigabytes of snapshot mapped.
        memory.madvise(mmap.MADV_DONTFORK)
        return memfd, memory
    return None, mmap.mmap(-1, size)


class ArenaPool:
    """The generations of one checkpointer: at most `generations` arenas, together within `budget` bytes.

    Without a budget it is most of what `allowance` says: what may be had for snapshots of so many bytes, beside so many
    that are held already. It is asked when the first arena is, and again when the state has grown.
    """

    def __init__(
        self,
        generations: int,
        budget: int | None,
        degraded: Callable[[str], None],
        allowance: Callable[[int, int], Allowance | None],
    ) -> None:
        self._generations = generations
        self._budget = budget
        self._allowance = allowance
        self._allowed: Allowance | None = None
        self._allowed_for = 0
        self._degraded = degraded
        self._changed = threading.Condition()
        self._capacity = 0
        self._free: list[Arena] = []
        self._leased: dict[str, Arena] = {}
        self._lost: list[Arena] = []
        self._closed = False

    def allowed(self, size: int) -> Allowance | None:
        """What memory there is for snapshots of `size` bytes, a budget aside; None where the system does not say."""
        if size > GROWN * self._allowed_for:
            held = sum(arena.resident for arena in (*self._leased.values(), *self._free))
            self._allowed, self._allowed_for = self._allowance(size, held), size
        return self._allowed

    @property
    def _most(self) -> int | None:
        """Bytes that all arenas may take together."""
        if self._budget is not None or self._allowed is None:
            return self._budget
        return int(self._allowed.free * SHARE)

    def shape(self, size: int, least: Callable[[], int] | None = None) -> tuple[int, int | None]:
        """How many arenas of `size` bytes the budget holds, and the window that they have.

        That is None unless the budget holds not even one: then it is one with all that there is, where that is at least
        ``least()`` bytes. Raises `SaveFailed` where it is not.
        """
        allowed = None if self._budget is not None else self.allowed(size)
        most = self._most
        if most is None:
            return self._generations, None
        if allowed is None:
            room = f"budget={most:,}"
            way_out = f"the budget is {most:,}: raise budget= to at least {size:,}"
        else:
            room = f"{SHARE:.0%} of what is there: {allowed.left}"
            way_out = f"{allowed.left}: raise its limit by {allowed.short_of(int(size / SHARE)):,}"
        fit = min(self._generations, most // size)
        if fit < 1:
            needed = least() if least is not None and sys.platform == "linux" else None
            if needed is None or needed > most:
                slower = "" if needed is None else f" ({needed:,} if training may wait for the store)"
                raise SaveFailed(f"a snapshot needs {size:,} bytes of staging memory{slower}, {way_out}, or save less")
        if fit < self._generations:
            self._degraded(f"{self._generations} generations of {size:,} bytes do not fit in {room}")
        return (fit, None) if fit else (1, most // PAGE * PAGE)

    def lease(self, size: int, *, wait: float | None = 0, least: Callable[[], int] | None = None) -> Arena | None:
        """An arena of at least `size` bytes, or None if every generation is in use for `wait` seconds (None: ever).

        See `shape` for `least`.
        """
        size = -(-size // PAGE) * PAGE
        limit, window = self.shape(size, least)
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._has_room(window or size, limit), wait):
                return None
            self._keep_fitting(size, limit, window)
            self._capacity = (window or size) * limit
            arena = self._free.pop(0) if self._free else Arena(size, window)
            self._leased[arena.id] = arena
            return arena

    def _has_room(self, size: int, limit: int) -> bool:
        return len(self._leased) < limit and self._affords(size, self._leased.values())

    def _affords(self, size: int, held: Iterable[Arena]) -> bool:
        return self._most is None or sum(arena.cost for arena in held) + size <= self._most

    def _keep_fitting(self, size: int, limit: int, window: int | None) -> None:
        """Drop free arenas from before the state's size changed: too small, or too large for `limit` of them."""
        most = sys.maxsize if self._most is None else self._most // limit
        self._free = [a for a in self._free if size <= a.capacity and a.cost <= most and a.window == window]

    def release(self, arena: Arena) -> None:
        """The arena's bytes are needed no more."""
        with self._changed:
            self._leased.pop(arena.id, None)
            if not self._closed:
                self._free.insert(0, arena)  # leased next: it is resident for certain
            self._changed.notify_all()

    def quarantine(self, arena: Arena) -> None:
        """Nobody shall have the arena again: a device may write to it still, so that it stays mapped."""
        with self._changed:
            self._leased.pop(arena.id, None)
            self._lost.append(arena)
            self._changed.notify_all()

    def memory(self) -> Memory:
        """How full it is now. Takes no lock: the training thread must never wait for a scrape."""
        used, free = tuple(self._leased.values()), tuple(self._free)
        return Memory(sum(a.cost for a in used), sum(a.cost for a in free), self._capacity)

    def spares(self, size: int) -> list[Arena]:
        """New free arenas of at least `size` bytes, all that the generations still allow, to be faulted in by now."""
        limit, window = self.shape(size)
        with self._changed:
            self._keep_fitting(size, limit, window)
            room = 0 if self._closed else limit - len(self._free) - len(self._leased)
            made: list[Arena] = []
            with suppress(OSError, MemoryError):  # no memory: the save that needs it will say so
                for _ in range(room):
                    if self._affords(size, (*self._leased.values(), *self._free, *made)):
                        made.append(Arena(size))
            self._free += made
            return made

    @property
    def free(self) -> tuple[Arena, ...]:
        """What may be leased now, in that order."""
        with self._changed:
            return tuple(self._free)

    def close(self) -> None:
        """Drop what is free; leased arenas go when they are released."""
        with self._changed:
            self._closed = True
            self._free.clear()
            self._changed.notify_all()
