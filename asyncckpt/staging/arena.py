"""Arena: host memory that becomes a file without another copy. Page-aligned, reused, within a budget.

Memory is faulted in once, in the background: a first touch costs 0.9 s per GiB here, and 3 s where the host of the
virtual machine has to find it first, which is more than the copy itself. On Linux the memory is a memfd, which
another process can map and which no limit of /dev/shm bounds, in huge pages where there are any
(`asyncckpt.worker.memory`); elsewhere it is anonymous.

An arena is one mapping, as large as the snapshot to the page, and no set of slabs of a power of two. Torch's own pool
of page-locked memory rounds each block up to one: a state of 17 GiB would lock 32. What is mapped here is registered
with the device as it is (`asyncckpt.staging.pinning`), so that nothing needs rounding, and a budget of two states holds
two generations. And it is the image of its file: no tensor lies across a border of slabs, and none is gathered before
it is written. What slabs would save, a new mapping when the state grows, is rare: when optimizer state appears.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Protocol

import torch

from asyncckpt.allowance import Allowance
from asyncckpt.errors import SaveFailed
from asyncckpt.levels import Memory
from asyncckpt.staging.pinning import pin
from asyncckpt.worker.memory import mapped

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
        self.descriptor, self._mapping = mapped(self.capacity)
        """Of the memfd, for another process to map; None where there is none."""
        self.view = self._mapping.view
        self.tensor = torch.frombuffer(self.view, dtype=torch.uint8)
        self._pinned: dict[str, bool] = {}
        self._pinning = threading.Lock()
        self.unpinned = ""
        """Why it could not be page-locked."""
        self.small_pages = ""
        """Why the kernel makes no huge pages of it."""
        self._asks_for_huge = self._mapping.huge_page > 0
        self._in_use: list[tuple[int, int]] = []
        """Of which there were none to be had because they were used meanwhile."""
        self.is_dropped = False
        """Whether no save will have it any more."""

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
            self._mapping.advise(mmap.MADV_REMOVE, first, last - first)

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
        for start, end in self._strides():
            if stop.is_set():
                return
            self._collapse(start, end)
            self.tensor[start:end:PAGE].max()

    def collapse_rest(self, stop: threading.Event) -> None:
        """Ask once more for the huge pages of what a save was using at the time, until `stop` is set."""
        rest, self._in_use = self._in_use, []
        for start, end in rest:
            if not stop.is_set():
                self._collapse(start, end)

    def _strides(self) -> Iterator[tuple[int, int]]:
        stride = max(_STRIDE, self._mapping.huge_page)
        for start in range(0, self.capacity, stride):
            yield start, min(start + stride, self.capacity)

    def _collapse(self, start: int, end: int) -> None:
        if not self._asks_for_huge:
            return
        try:
            self._mapping.collapse(start, end)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                self._in_use.append((start, end))
            else:  # the next ones are not asked for in vain
                self._asks_for_huge = False
            if error.errno == errno.EINVAL:  # and not that memory is short, or in small pieces, just now
                self.small_pages = str(error)


class Limits(Protocol):
    """What memory there is."""

    def memory(self, need: int, held: int) -> Allowance | None:
        """What may be had for snapshots of `need` bytes, `held` of which are held already; None where nobody knows."""
        ...

    def again(self) -> Allowance | None:
        """The same, where it has turned out to be more or less than was said; None where it has not."""
        ...


class Lender(Protocol):
    """Whom an arena goes back to."""

    def release(self, arena: Arena) -> None: ...

    def quarantine(self, arena: Arena) -> None:
        """Like `release`, but a device may write to it still: nobody shall have it again."""
        ...


class ArenaPool:
    """The generations of one checkpointer: at most `generations` arenas, together within `budget` bytes.

    Without a budget it is most of what `limits` say. They are asked when the first arena is, and again when the state
    has grown.
    """

    def __init__(
        self,
        generations: int,
        budget: int | None,
        degraded: Callable[[str], None],
        limits: Limits,
    ) -> None:
        self._generations = generations
        self._budget = budget
        self._limits = limits
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
            self._allowed, self._allowed_for = self._limits.memory(size, held), size
        return self._allowed

    def look_again(self) -> None:
        """What there is may be more or less by now than the limits said at first."""
        if (found := self._limits.again()) is not None:
            self._allowed = found

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
        """Drop free arenas from before the state's size changed, too small or too large for `limit` of them, and those
        that there may be no more."""
        most = sys.maxsize if self._most is None else self._most // limit
        fitting = [a for a in self._free if size <= a.capacity and a.cost <= most and a.window == window]
        former, self._free = self._free, fitting[: max(0, limit - len(self._leased))]
        for arena in former:
            arena.is_dropped = arena not in self._free

    def release(self, arena: Arena) -> None:
        """The arena's bytes are needed no more; one in quarantine stays there."""
        with self._changed:
            was_leased = self._leased.pop(arena.id, None) is not None
            if was_leased and not self._closed:
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
