"""Preparing: what a state needs to be copied, a plan and memory for it, asked for before it is needed."""

from __future__ import annotations

import contextlib
import functools

from asyncckpt.allowance import Allowance
from asyncckpt.errors import SaveFailed
from asyncckpt.events import Fallback, Listeners
from asyncckpt.saves.admission import Admission
from asyncckpt.staging.arena import Arena, ArenaPool
from asyncckpt.staging.layout import Plan, announce, build
from asyncckpt.staging.stager import Stager
from asyncckpt.state.capture import Captured
from asyncckpt.worker.sharing import Sharing


class Preparing:
    """For the saves of one checkpointer, in so many `generations` of staging memory, within `budget` bytes."""

    def __init__(
        self, listeners: Listeners, admission: Admission, sharing: Sharing, *, generations: int, budget: int | None
    ) -> None:
        self._listeners = listeners
        self._admission = admission
        self._generations = generations
        self._degraded: set[str] = set()
        self.arenas = ArenaPool(generations, budget, functools.partial(self._degrade, "generations"), sharing)
        self.stager = Stager(listeners, self.arenas)
        self.planned: Plan | None = None
        """The newest plan."""
        self._fresh: list[Arena] = []
        """Arenas that are still to be faulted in."""
        self._of: object = None
        """What it was made of."""
        self._admitted = 0
        """Bytes of the largest snapshot for which it was looked whether what it needs is there."""
        self._allowed: Allowance | None = None
        """The memory that there was for it."""

    def plan(self, captured: Captured) -> Plan:
        """That of the state as it is now; raises `UnsupportedState` for what cannot be held."""
        if self.planned is None or self._of is not captured.sources:
            plan = build(captured.sources)
            if self.planned is None:
                announce(plan)
            self.planned, self._of = plan, captured.sources
        self._admit(self.planned)
        return self.planned

    def _admit(self, plan: Plan) -> None:
        """Look whether what the largest snapshot needs is there; again where other ranks have said more meanwhile."""
        has_grown = plan.layout.size > self._admitted
        self._admitted = max(self._admitted, plan.layout.size)
        self.arenas.look_again()
        allowed = self.arenas.allowed(self._admitted)
        if has_grown or allowed is not self._allowed:
            self._allowed = allowed
            self._admission.check(self._admitted, self._generations, plan.devices, allowed)

    def ahead(self, captured: Captured) -> None:
        """Plan the state, and make arenas for it, which `fault` faults in. Raises as `plan`."""
        with contextlib.suppress(RuntimeError):  # no thread to be had: the save that needs it will say so
            self.stager.start()  # ahead of the faults: starting a thread waits for those that are under way
        plan = self.plan(captured)
        # A budget that is too small, or a device that is full, is the save's to tell: it is no reason to stop training.
        with contextlib.suppress(SaveFailed, RuntimeError, MemoryError):
            self._fresh += self.arenas.spares(plan.layout.size)
            self.stager.prepare(plan, self.arenas.free)

    def fault(self) -> None:
        """Fault in what `ahead` has made, in the background, so that the first save need not."""
        fresh, self._fresh = self._fresh, []
        if self.planned is not None:
            self.stager.prefault.start([arena for arena in fresh if not arena.is_dropped], self.planned.devices)

    def next(self, plan: Plan, arena: Arena) -> None:
        """Fault the generation after `arena` in, where there is to be one."""
        if arena.window is None:
            self._fresh += self.arenas.spares(plan.layout.size)
            self._fresh = [fresh for fresh in self._fresh if fresh is not arena]  # its copies do that
            self.fault()
            return
        size, late = plan.layout.size, plan.layout.size - arena.window
        self._degrade(
            "staging window",
            f"a snapshot of {size:,} bytes goes through {arena.window:,} bytes of memory: after each save the "
            f"optimizer waits until the store has taken {late:,} of them, {late / 1e9:.1f} s at 1 GB/s, and nothing is "
            f"compared (verify); with {size:,} bytes it waits for no store",
        )

    def _degrade(self, feature: str, reason: str) -> None:
        if reason not in self._degraded:
            self._degraded.add(reason)
            self._listeners.emit(Fallback(feature, reason))
