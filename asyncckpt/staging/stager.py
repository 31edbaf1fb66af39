"""Stager: fills arenas from live tensors. What is EAGER in the call, what is LAZY in one background thread.

A snapshot's life: ``begin`` (EAGER bytes copied, LAZY ones queued) -> copied (the latch opens) -> sealed (it may
be committed) or aborted. `Stager.guard` returns once nothing LAZY is being copied; the optimizer's hook calls
it. Whatever goes wrong in the copy opens the latch and fails the one snapshot: training never hangs on it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from asyncckpt.errors import SaveSuperseded, TornSnapshot
from asyncckpt.events import Listeners, Staged, Stalled
from asyncckpt.format.manifest import Path
from asyncckpt.staging.arena import Arena
from asyncckpt.staging.device import GROUP, copy_group, destination, origin, same_bits
from asyncckpt.staging.guards import unwatch, watch
from asyncckpt.staging.layout import Plan, Region, handed_out
from asyncckpt.staging.prefault import Prefault
from asyncckpt.worker.watermark import Watermark

logger = logging.getLogger("asyncckpt")


@dataclass(frozen=True, slots=True)
class _Group:
    """Copies made in one call; the first `upto` bytes of the arena are filled after it."""

    upto: int
    paths: tuple[Path, ...]
    destinations: tuple[Tensor, ...]
    sources: tuple[Tensor, ...]

    def copy(self) -> None:
        copy_group(self.destinations, self.sources)

    def changed(self) -> list[Path]:
        """The tensors whose live bytes are not the copied ones."""
        pairs = zip(self.paths, self.destinations, self.sources, strict=True)
        return [path for path, copied, live in pairs if not same_bits(copied, live)]


class Schedule:
    """The copies of one plan into one arena; built once and used for every save until the plan changes."""

    def __init__(self, plan: Plan, arena: Arena) -> None:
        self.plan = plan
        self.arena = arena
        for start, header in plan.headers:
            arena.view[start : start + len(header)] = header
        self.eager = self._group([r for r in plan.regions if not r.lazy and not r.source.volatile], 0)
        self.volatile = {r.path: r for r in plan.regions if r.source.volatile}
        self._lazy: list[_Group] | None = None

    @property
    def first_lazy(self) -> int:
        """Where the first byte lies that is not there when ``begin`` returns."""
        return next((r.offset for r in self.plan.regions if r.lazy), self.plan.layout.size)

    def lazy(self) -> list[_Group]:
        """LAZY copies in file order; built by the copier, off the training thread."""
        if self._lazy is None:
            regions = [part for region in self.plan.regions if region.lazy for part in _parts(region)]
            runs = list(_runs(regions))
            ends = [*(run[0].offset for run in runs), self.plan.layout.size][1:]
            self._lazy = [self._group(run, end) for run, end in zip(runs, ends, strict=True)]
        return self._lazy

    def copy_volatile(self, tensors: Mapping[Path, Tensor]) -> None:
        """Copy what was handed out for this save."""
        pairs = [(r.offset, handed_out(r, tensors)) for r in self.volatile.values()]
        copy_group(
            [destination(self.arena.tensor, offset, tensor) for offset, tensor in pairs],
            [origin(tensor) for _, tensor in pairs],
        )

    def _group(self, regions: list[Region], upto: int) -> _Group:
        return _Group(
            upto,
            tuple(r.path for r in regions),
            tuple(destination(self.arena.tensor, r.offset, r.source.tensor) for r in regions),
            tuple(origin(r.source.tensor) for r in regions),
        )


def _parts(region: Region) -> list[Region]:
    """A large row-major region in pieces, so that the writer can follow close behind the copy."""
    tensor = region.source.tensor
    if region.nbytes <= GROUP or not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        return [region]
    flat = tensor.detach().view(-1)
    step = GROUP // tensor.itemsize
    return [_part(region, flat[at : at + step], at * tensor.itemsize) for at in range(0, flat.numel(), step)]


def _part(region: Region, tensor: Tensor, shift: int) -> Region:
    source = region.source
    return Region(region.path, region.offset + shift, tensor.nbytes, type(source)(source.path, tensor, source.lazy))


def _runs(regions: list[Region]) -> list[list[Region]]:
    runs: list[list[Region]] = []
    size = 0
    for region in regions:
        if not runs or size + region.nbytes > GROUP:
            runs.append([])
            size = 0
        runs[-1].append(region)
        size += region.nbytes
    return runs


class Snapshot:
    """The state at one step, on its way into an arena."""

    def __init__(self, step: int, schedule: Schedule, verify: bool, released: Callable[[Arena], None]) -> None:
        self.step = step
        self.arena = schedule.arena
        self.watermark = Watermark()
        self.started = time.monotonic()
        self.copied = threading.Event()
        self._schedule = schedule
        self._verify = verify
        self._checking = threading.Lock()
        self._cancelled = False
        self._taken = False
        self._released = released
        self._holders = 2
        self._releasing = threading.Lock()

    def take(self) -> bool:
        """Whether this is the first call: a snapshot is copied once, however often it is queued."""
        taken, self._taken = self._taken, True
        return not taken

    def copy(self) -> bool:
        """Copy the LAZY bytes, in the copier's thread; returns whether all of them are in the arena."""
        try:
            for group in self._schedule.lazy():
                if self._cancelled:
                    return False
                group.copy()
                self.watermark.advance(group.upto)
            self.watermark.advance(self._schedule.plan.layout.size)
            if not self._verify:
                self.watermark.seal()
            return True
        except Exception as error:  # whatever it is belongs on this save's handle, and must not stop training
            self.watermark.abort(error)
            return False
        finally:
            self.release()  # first: who waits for the copy may let the last share go, and lease the arena at once
            self.copied.set()

    def guard(self) -> None:
        """Return once the LAZY bytes are copied, and found unchanged where this save is one to verify."""
        self.copied.wait()
        if self._verify:
            with self._checking:
                if self._verify:
                    self._compare()

    def _compare(self) -> None:
        try:
            self._check()
        finally:
            # Only now: until here a step of another thread has to wait, or it would change what is compared.
            self._verify = False

    def _check(self) -> None:
        if self._cancelled:
            return
        torn = [path for group in self._schedule.lazy() for path in group.changed()]
        if not torn:
            self.watermark.seal()
            return
        names = sorted({".".join(path) for path in torn})
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        self.watermark.abort(
            TornSnapshot(
                f"the snapshot of step {self.step} is torn: {shown} changed while being copied. Call "
                "before_mutation() before changing saved tensors outside of a registered optimizer",
                names,
            )
        )

    @property
    def nbytes(self) -> int:
        """Bytes of state in it."""
        return self._schedule.plan.layout.bytes

    @property
    def verifying(self) -> bool:
        """Whether the copied bytes are still to be compared with the live ones."""
        return self._verify

    @property
    def settled(self) -> bool:
        """Whether there is nothing left that `guard` would wait for."""
        return self.copied.is_set() and not self._verify

    def stop(self) -> None:
        """Copy no more than is under way: the worker is done with this snapshot."""
        self._cancelled = True

    def cancel(self, by_step: int) -> None:
        """Nobody will read this snapshot. Returns once its arena is not written any more."""
        self.stop()
        self.watermark.abort(SaveSuperseded(f"step {self.step} was replaced by step {by_step}"))
        self.copied.wait()

    def release(self) -> None:
        """One of the two that hold the arena (copier, worker) is done with it; the second call frees it."""
        with self._releasing:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._released(self.arena)


class Stager:
    """The copies of one checkpointer, and its guard."""

    def __init__(self, listeners: Listeners, released: Callable[[Arena], None]) -> None:
        self._listeners = listeners
        self._released = released
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: list[Snapshot] = []
        self._lock = threading.Lock()
        self._schedules: dict[str, Schedule] = {}
        self.prefault = Prefault()
        self._process = os.getpid()
        watch(self)

    def begin(
        self,
        step: int,
        plan: Plan,
        arena: Arena,
        volatile: Mapping[Path, Tensor],
        *,
        verify: bool,
    ) -> Snapshot:
        """Copy what is EAGER; between two steps. What is LAZY is `copy`'s, before the next one."""
        self.start()  # where there can be no thread, nothing may wait for it
        self.settle()
        with self._lock:
            self._pending = [snapshot for snapshot in self._pending if not snapshot.settled]
        schedule = self._schedule(plan, arena)
        snapshot = Snapshot(step, schedule, verify, self._released)
        schedule.eager.copy()
        schedule.copy_volatile(volatile)
        snapshot.watermark.advance(schedule.first_lazy)
        return snapshot

    def copy(self, snapshot: Snapshot, *, begun: Callable[[], None], staged: Callable[[], None]) -> None:
        """Queue what is LAZY. The copying thread calls `begun` before it copies, and `staged` when all is there."""

        def task() -> None:
            self._copy(snapshot, begun, staged)

        try:
            self._queue.put(task)
            with self._lock:  # only now: the guard must never wait for what nobody copies
                self._pending.append(snapshot)
        except BaseException:
            self._queue.put(task)  # an interrupt may have come before it was there; it is done once
            raise

    def settle(self) -> None:
        """Compare the snapshots that are to be verified now, for a thread that waits instead of making a step."""
        for snapshot in tuple(self._pending):
            if snapshot.verifying and os.getpid() == self._process:
                snapshot.guard()

    def prepare(self, plan: Plan, arenas: Sequence[Arena]) -> None:
        """Have everything that the first `begin` of `plan` in each of these new `arenas` needs."""
        for arena in arenas:
            self._schedule(plan, arena)
        self.prefault.start(arenas)

    def guard(self) -> None:
        """Return once no LAZY tensor is being copied; costs nothing when none is."""
        # A forked child has neither the copying thread nor the arena, and its tensors are its own.
        if not self._pending or os.getpid() != self._process:
            return
        began = time.monotonic()
        with self._lock:
            pending = list(self._pending)
        for snapshot in pending:
            snapshot.guard()
        with self._lock:  # only now: until here, another thread's step has to wait for them too
            self._pending = [snapshot for snapshot in self._pending if not snapshot.settled]
        if pending:
            self._listeners.emit(Stalled(pending[-1].step, time.monotonic() - began, "guard"))

    def close(self) -> None:
        """Finish what is queued, then end the threads."""
        self.prefault.close()
        self.guard()
        unwatch(self)
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        self._schedules.clear()

    def _schedule(self, plan: Plan, arena: Arena) -> Schedule:
        known = self._schedules.get(arena.id)
        if known is None or known.plan is not plan:
            stale = [key for key, schedule in self._schedules.items() if schedule.plan is not plan]
            for key in stale:
                del self._schedules[key]
            known = self._schedules[arena.id] = Schedule(plan, arena)
        return known

    def _copy(self, snapshot: Snapshot, begun: Callable[[], None], staged: Callable[[], None]) -> None:
        if not snapshot.take():
            return
        begun()
        if snapshot.copy():
            staged()
            self._listeners.emit(Staged(snapshot.step, snapshot.nbytes, time.monotonic() - snapshot.started))

    def start(self) -> None:
        """Start the copying thread, unless it runs."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="asyncckpt-copy", daemon=True)
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                task()
            except BaseException:  # the thread's entry: a listener that exits must not end the next copy too
                logger.exception("a task of the staging thread failed")
            del task
