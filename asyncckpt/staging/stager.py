"""Stager: fills arenas from live tensors. What is EAGER in the call, what is LAZY while training goes on.

One thread copies what lies in host memory and enqueues what lies on devices; another waits for devices, so that the
first is there for the next snapshot. `Stager.guard`, which the optimizer's hook calls, returns once nothing LAZY is
being copied, or the device's stream waits for that.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from asyncckpt.events import Fallback, Listeners, OverBudget, Staged, Stalled
from asyncckpt.format.contents import Path
from asyncckpt.staging.alone import be_alone
from asyncckpt.staging.arena import Arena, Lender
from asyncckpt.staging.guards import unwatch, watch
from asyncckpt.staging.layout import Plan
from asyncckpt.staging.patience import Patience
from asyncckpt.staging.prefault import Prefault
from asyncckpt.staging.schedule import Schedule
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.staging.tasks import Tasks

logger = logging.getLogger("asyncckpt")


class Stager:
    """The copies of one checkpointer, and its guard."""

    def __init__(self, listeners: Listeners, lender: Lender) -> None:
        self._listeners = listeners
        self._lender = lender
        self._copier = Tasks("asyncckpt-copy")
        self._is_alone = False
        self._waiter = Tasks("asyncckpt-wait")
        self._pending: list[Snapshot] = []
        self._lock = threading.Lock()
        self._schedules: dict[str, Schedule] = {}
        self._unpinned: set[str] = set()
        self.prefault = Prefault(self._pin, listeners)
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
        patience: Patience | None = None,
    ) -> Snapshot:
        """Copy what is EAGER; between two steps. What is LAZY is `copy`'s, before the next one."""
        self.start()  # where there can be no thread, nothing may wait for it
        self.settle()
        with self._lock:
            self._pending = [snapshot for snapshot in self._pending if not snapshot.settled]
        self._schedules = {key: known for key, known in self._schedules.items() if not known.arena.is_dropped}
        schedule = self._schedule(plan, arena)
        if schedule.lanes:
            self._waiter.start()
        tell = self._tell_staged
        snapshot = Snapshot(step, schedule, self._lender, self._waiter.put, tell, verify=verify, patience=patience)
        snapshot.capture(volatile)
        return snapshot

    def copy(self, snapshot: Snapshot, *, begun: Callable[[], None], staged: Callable[[], None]) -> None:
        """Queue what is LAZY. The copying thread calls `begun` before it copies; `staged` follows when all is there."""

        def task() -> None:
            self._copy(snapshot, begun, staged)

        if not self._is_alone:  # not sooner: the first call would take longer by the threads that it takes
            self._is_alone = True
            self._copier.put(self._be_alone)
        try:
            self._copier.put(task)
            with self._lock:  # only now: the guard must never wait for what nobody copies
                self._pending.append(snapshot)
        except BaseException:
            self._copier.put(task)  # an interrupt may have come before it was there; it is done once
            raise

    def settle(self) -> None:
        """Compare the snapshots that are to be verified now, for a thread that waits instead of making a step."""
        for snapshot in tuple(self._pending):
            if snapshot.verifying and os.getpid() == self._process:
                snapshot.guard()

    def prepare(self, plan: Plan, free: Sequence[Arena]) -> None:
        """Have everything that the first `begin` of `plan` in each of the `free` arenas needs, but for their pages."""
        for arena in free:
            self._schedule(plan, arena)

    def guard(self) -> None:
        """Return once no LAZY tensor is copied before it may change; costs nothing when none is being copied."""
        # A forked child has neither the copying thread nor the arena, and its tensors are its own.
        if not self._pending or os.getpid() != self._process:
            return
        began = time.monotonic()
        with self._lock:
            pending = list(self._pending)
        for snapshot in pending:
            self._guard(snapshot)
        with self._lock:  # only now: until here, another thread's step has to wait for them too
            self._pending = [snapshot for snapshot in self._pending if not snapshot.settled]
        if pending:
            self._listeners.emit(Stalled(pending[-1].step, time.monotonic() - began, "guard"))

    def _guard(self, snapshot: Snapshot) -> None:
        patience = snapshot.patience
        if patience is None:
            snapshot.guard()
            return
        before, spent, began = (patience.is_over, snapshot.is_given_up), patience.spent, time.monotonic()
        snapshot.guard()
        patience.spent = max(patience.spent, spent + time.monotonic() - began)  # a comparison too, not waits alone
        if before != (patience.is_over, snapshot.is_given_up):
            self._listeners.emit(
                OverBudget(snapshot.step, patience.spent, patience.limit_ms / 1000, snapshot.is_given_up)
            )

    def close(self) -> None:
        """Finish what is queued, then end the threads."""
        self.prefault.close()
        self.guard()
        unwatch(self)
        self._copier.close()
        self._waiter.close()
        self._schedules.clear()

    def _schedule(self, plan: Plan, arena: Arena) -> Schedule:
        known = self._schedules.get(arena.id)
        if known is None or known.plan is not plan:
            stale = [key for key, schedule in self._schedules.items() if schedule.plan is not plan]
            for key in stale:
                del self._schedules[key]
            known = self._schedules[arena.id] = Schedule(plan, arena)
        return known

    def _be_alone(self) -> None:
        try:
            be_alone()
        except RuntimeError as error:
            reason = f"copies are made by threads beside those of training, whose steps take longer by that: {error}"
            self._listeners.emit(Fallback("serial copies", reason))

    def _copy(self, snapshot: Snapshot, begun: Callable[[], None], staged: Callable[[], None]) -> None:
        if not snapshot.take():
            return
        begun()
        for kind in snapshot.devices:
            self._pin(snapshot.arena, kind)
        snapshot.copy(staged)

    def _tell_staged(self, snapshot: Snapshot) -> None:
        self._listeners.emit(Staged(snapshot.step, snapshot.nbytes, time.monotonic() - snapshot.started))

    def _pin(self, arena: Arena, kind: str) -> None:
        """Page-lock an arena for devices of this kind, once; say so where that cannot be done."""
        if not arena.pin(kind) and kind not in self._unpinned:
            self._unpinned.add(kind)
            self._listeners.emit(Fallback("pinned memory", f"copies from {kind} block: {arena.unpinned}"))

    def start(self) -> None:
        """Start the copying thread, unless it runs."""
        self._copier.start()
