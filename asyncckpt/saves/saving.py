"""Saving: one save from the call to its handle's end. The training thread's part takes about a millisecond.

Order in `Saver.save`: read the state (values now, tensors by reference), lease an arena, copy what is EAGER,
queue the LAZY copies and the job. Whatever happens after that is on the handle.
"""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

from torch.optim.optimizer import Optimizer

from asyncckpt.budget import Budget
from asyncckpt.clock import Clock
from asyncckpt.distributed.counts import Counts
from asyncckpt.errors import PreemptionTimeoutError, SaveSkipped
from asyncckpt.events import Listeners, OverBudget, Requested, Stalled
from asyncckpt.levels import Levels
from asyncckpt.saves.admission import Admission
from asyncckpt.saves.answering import Answering
from asyncckpt.saves.giving_way import GivingWay
from asyncckpt.saves.handing import HandOver, WorkersPart
from asyncckpt.saves.handle import SaveHandle, skipped
from asyncckpt.saves.interference import Flight, Interference
from asyncckpt.saves.outcomes import Outcomes
from asyncckpt.saves.preparing import Preparing
from asyncckpt.saves.queued import Queued
from asyncckpt.saves.rhythm import Rhythm
from asyncckpt.saves.urgency import Urgency
from asyncckpt.saves.waiting import Ends, Waiting
from asyncckpt.staging.arena import Arena
from asyncckpt.staging.layout import Plan
from asyncckpt.staging.patience import Patience
from asyncckpt.staging.streams import refuse_capture
from asyncckpt.staging.window import least
from asyncckpt.state.capture import Capture, Captured
from asyncckpt.wording import worded
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.job import SaveJob
from asyncckpt.worker.ranks import STEP_TASK, Ranks, at_work, job_id, save_task
from asyncckpt.worker.sharing import Sharing
from asyncckpt.worker.ticket import Ticket

logger = logging.getLogger("asyncckpt")

OnBusy: TypeAlias = Literal["coalesce", "wait", "skip"]
Verify: TypeAlias = Literal["sample", "always", "off"]

SAMPLE = 100
"""With ``verify="sample"`` the first two saves are compared, and one in so many after that."""


class Saver:
    """Makes snapshots and hands them over; owns arenas, stager and the handles under way."""

    def __init__(
        self,
        capture: Capture,
        executor: Executor,
        listeners: Listeners,
        clock: Clock,
        ranks: Ranks,
        counts: Counts,
        admission: Admission,
        sharing: Sharing,
        *,
        generations: int,
        budget: Budget,
        verify: Verify,
        fingerprint: str,
        optimizers: Sequence[Optimizer] = (),
        tiers: Collection[str] = (),
        message: str | None = None,
    ) -> None:
        self._fingerprint = fingerprint
        self._message = message
        self._tiers = tiers
        """Those that have a save before it is durable."""
        self._capture = capture
        self._executor = executor
        self._listeners = listeners
        self._clock = clock
        self._ranks = ranks
        self._verify = verify
        self._stall_ms = budget.stall_ms
        self._preparing = Preparing(listeners, admission, sharing, generations=generations, budget=budget.memory)
        self._arenas = self._preparing.arenas
        self.stager = self._preparing.stager
        self._interference = Interference(budget.slowdown, executor.pace, listeners)
        self.rhythm = Rhythm(optimizers, self._stepped)
        self._queued = Queued()
        self._counts = counts
        self._saves = 0
        self._reading = threading.RLock()
        """Held while the state is read, planned or copied: the training thread saves, and so may others."""
        self.owner: object = None
        """Kept for as long as a save is under way, since the worker holds this then: it is closed at exit."""
        self.ends: Ends | None = None
        """When a notice has everybody let go who waits for a save, where there can be one."""
        self._outcomes = Outcomes(listeners, ranks)
        self._answering = Answering(self._outcomes, self._queued, ranks)
        self._giving_way = GivingWay(self._queued, self._answering, executor, self._outcomes, ranks)

    @property
    def handles(self) -> list[SaveHandle]:
        """Of the saves under way, and of those that failed and nobody was told of."""
        return self._outcomes.handles

    def prepare(self) -> None:
        """Plan the state as it is now, and have memory for it, so that the first save finds both; not faulted in yet.

        Raises `UnsupportedState` for what cannot be held: better now than at the first save.
        """
        with self._reading:
            self._preparing.ahead(self._capture.read())

    def fault(self) -> None:
        """Have the memory faulted in, beside whatever the training does now."""
        with self._reading:
            self._preparing.fault()

    @property
    def is_idle(self) -> bool:
        """Whether no save is under way, and none has failed that somebody is still to be told of."""
        return all(handle.done() and not handle.is_untold for handle in self._outcomes.handles)

    def _stepped(self, step: int, now: float | None = None) -> None:
        """The training thread has made step `step`: see what that took beside what is in flight."""
        now = self._clock.monotonic() if now is None else now
        if not (handles := self._outcomes.handles):
            self._interference.step(step, now, Flight(False, False, self._saves))
            return
        statuses = [handle.status for handle in handles]
        flight = Flight(bool({"staging", "writing"}.intersection(statuses)), "staging" in statuses, self._saves)
        self._interference.step(step, now, flight)

    def settle(self) -> None:
        """Before a wait for any save: there will be no step meanwhile that would have to be spared, or guarded."""
        self._interference.hurry()
        self.stager.settle()

    # -- the call ------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self, step: int) -> Iterator[None]:
        """Around every `save`: numbers it alike on all ranks, and tells them of what is raised: they would wait."""
        self._counts.saves += 1
        try:
            yield
        except BaseException as error:
            self._outcomes.give_up(self._counts.saves, error)
            if isinstance(error, Exception):
                self._listeners.emit(Requested(step, error))
            raise

    def save(
        self,
        step: int,
        epoch: int | None,
        metrics: Mapping[str, float],
        *,
        replaceable: bool,
        on_busy: OnBusy,
        urgency: Urgency | None = None,
    ) -> SaveHandle:
        """Snapshot the state now; a `replaceable` one may be superseded while it is staged.

        Raises `UnsupportedState` for what cannot be held, and nothing else.
        """
        began, created = time.monotonic(), int(self._clock.time() * 1e6)
        refuse_capture(step)
        with self._reading:
            captured = self._capture_for(urgency).read()
            plan = self._preparing.plan(captured)
        deadline = None if urgency is None else urgency.deadline
        patience, given_up = self._patience(step, urgency, replaceable=replaceable), False
        nbytes, tiers = plan.layout.bytes, self._tiers
        handle = SaveHandle(
            step, self.settle, deadline=deadline, nbytes=nbytes, tiers=tiers, patience=patience, ends=self.ends
        )
        if urgency is not None:
            self._make_way(step, urgency)
        self._outcomes.remember(handle)
        try:
            self._listeners.emit(Requested(step))
            arena = self._lease(plan, step, on_busy, patience, urgency)
            if arena is None:
                self._outcomes.skip(handle, skipped(handle, self.handles), self._counts.saves)
            else:
                try:
                    passable = replaceable and on_busy != "wait"
                    job = self._job(step, epoch, metrics, created, arena, plan, captured, urgency, passable=passable)
                    verify = self._is_sampled(plan) and arena.window is None and urgency is None
                    with self._reading:
                        snapshot = self.stager.begin(
                            step, plan, arena, captured.volatile, verify=verify, patience=patience
                        )
                except BaseException:
                    self._arenas.release(arena)
                    raise
                self._hand_over(HandOver(job, handle, snapshot), replaceable)
                self._preparing.next(plan, arena)
        except SaveSkipped as error:
            given_up = True
            self._outcomes.skip(handle, error, self._counts.saves)
        except Exception as error:  # no memory, no thread: this save's failure, and no reason to stop training
            self._outcomes.failed(handle, self._counts.saves, "stage", error)
        except BaseException:  # an interrupt
            self._outcomes.forget(handle)
            raise
        self._held(step, time.monotonic() - began, patience, given_up=given_up)
        return handle

    def _patience(self, step: int, urgency: Urgency | None, *, replaceable: bool) -> Patience:
        """The others give nothing up: their shards are small, and only rank 0 decides."""
        if self._stall_ms is None or urgency is not None:
            return Patience(step)
        return Patience(step, self._stall_ms, gives_up=replaceable and self._ranks.rank == 0)

    def _held(self, step: int, seconds: float, patience: Patience, *, given_up: bool) -> None:
        self._listeners.emit(Stalled(step, seconds, "call"))
        patience.spent = max(patience.spent, seconds)  # by the guard of another thread meanwhile
        if patience.is_over or given_up:
            self._listeners.emit(OverBudget(step, seconds, patience.limit_ms / 1000, dropped=given_up))

    def _job(
        self,
        step: int,
        epoch: int | None,
        metrics: Mapping[str, float],
        created: int,
        arena: Arena,
        plan: Plan,
        captured: Captured,
        urgency: Urgency | None,
        *,
        passable: bool,
    ) -> SaveJob:
        return SaveJob(
            id=self._job_id(),
            ordinal=self._counts.saves,
            step=step,
            epoch=epoch,
            metrics=metrics,
            created=created,
            arena=arena.id,
            layout=plan.layout,
            values=captured.values,
            rank=self._ranks.rank,
            world=self._ranks.world,
            plan=self._fingerprint,
            partial=urgency.leaves_out if urgency else (),
            emergency=urgency is not None,
            local_only=urgency is not None and urgency.local_only,
            passable=passable and urgency is None,
            message=None if self._message is None else worded(self._message, step, epoch, metrics),
        )

    def _job_id(self) -> str:
        """On rank 0 of several one that the others know too: what it names they find in the storage."""
        session = self._ranks.session if self._ranks.rank == 0 else None
        return secrets.token_hex(16) if session is None else job_id(session, self._counts.saves)

    def _hand_over(self, hand: HandOver, replaceable: bool) -> None:
        """Have copier and worker take it from here; from now on they let the arena go."""
        snapshot = hand.snapshot
        if not hand.job.emergency:  # nothing takes the place of that
            self._queued.add(hand, replaceable=replaceable)
        try:
            staged = functools.partial(self._executor.staged, hand.job.id, hand.handle._is_staged)
            self.stager.copy(snapshot, begun=functools.partial(self._submit, hand), staged=staged)
        except BaseException as error:
            # An interrupt, and copier and worker may have it already: nobody asked for what they would commit.
            self._queued.remove(hand.job.id)
            snapshot.stop()
            snapshot.watermark.abort(error)
            if hand.withdraw(self._executor.withdraw):
                self._ranks.end(save_task(hand.job.ordinal))
                snapshot.release()
            raise

    def _submit(self, hand: HandOver) -> None:
        """Give the job to the worker; on the copier's thread."""
        snapshot = hand.snapshot
        answer = functools.partial(self._answering.hear, hand.job, hand.handle, WorkersPart(snapshot))
        ticket = Ticket(hand.job, snapshot.arena.view, snapshot.watermark, answer, snapshot.arena.descriptor)
        try:
            hand.submit(lambda: self._enter(ticket))
        except Exception as error:  # no thread, or closed meanwhile: this save's failure, as it is anywhere else
            self._queued.remove(hand.job.id)
            self._ranks.end(save_task(hand.job.ordinal))
            snapshot.stop()
            snapshot.release()
            self._outcomes.failed(hand.handle, hand.job.ordinal, "stage", error)

    def _enter(self, ticket: Ticket) -> None:
        if self._ranks.rank == 0:  # the others wait for its verdict; it waits for them only while they write
            self._ranks.begin(save_task(ticket.job.ordinal))
        self._executor.submit(ticket)

    def _is_sampled(self, plan: Plan) -> bool:
        self._saves += 1
        chosen = self._verify == "always"
        if self._verify == "sample" and self._stall_ms is None:  # to compare takes longer than to copy
            chosen = self._saves <= 2 or self._saves % SAMPLE == 0
        # Where nothing is LAZY nothing can be torn, and rank 0 must not wait for this rank's next step.
        return chosen and any(region.lazy for region in plan.regions)

    # -- a generation to copy into -------------------------------------------------------------------------

    def _capture_for(self, urgency: Urgency | None) -> Capture:
        if urgency is None or not urgency.leaves_out:
            return self._capture
        return self._capture.only([part for part in self._capture.parts if part not in urgency.leaves_out])

    def _make_way(self, step: int, urgency: Urgency) -> None:
        """Have everything go as fast as it can, and what matters less than the emergency at `step` give way to it."""
        self.settle()
        self._giving_way.make(step, urgency)

    def _lease(
        self, plan: Plan, step: int, on_busy: OnBusy, patience: Patience, urgency: Urgency | None
    ) -> Arena | None:
        lease = functools.partial(self._arenas.lease, plan.layout.size, least=lambda: least(plan))
        arena = lease()
        if self._ranks.rank != 0:
            on_busy = "wait"  # rank 0 decides; what it has let go is freed as soon as this rank has heard of it
        if arena is None and on_busy == "coalesce" and self._giving_way.supersede(step, replaceable=True):
            arena = lease()
        if arena is None and on_busy == "wait":
            # A snapshot that is being verified waits for an optimizer step, which this thread would have to make.
            self.settle()
            waiting = Waiting(patience.left, self.ends, None if urgency is None else urgency.deadline)
            with at_work(self._ranks, STEP_TASK), at_work(self._ranks, save_task(self._counts.saves)):
                if urgency is not None:
                    arena = self._lease_soon(lambda seconds: lease(wait=seconds), step, urgency)
                if arena is None:
                    arena = waiting.found(lambda seconds: lease(wait=seconds))
            if arena is None and patience.gives_up and not waiting.is_cut_short:
                raise patience.exhausted("no memory came free")
            if arena is None:
                raise PreemptionTimeoutError(f"step {step} was not saved: no memory came free before the deadline")
        return arena

    def _lease_soon(self, look: Callable[[float | None], Arena | None], step: int, urgency: Urgency) -> Arena | None:
        """What comes free before the emergency at `step` has waited for long enough, and has the others give way."""
        self._executor.hurry()
        if urgency.memory_by is None:
            return None
        arena = Waiting(None, self.ends, urgency.memory_by).found(look)
        if arena is None:
            self._giving_way.for_memory(step)
        return arena

    # -- what there is of it -------------------------------------------------------------------------------

    def sizes(self) -> dict[str, int]:
        """Bytes of tensors of each part of the state as it is now."""
        found = dict.fromkeys(self._capture.parts, 0)
        with self._reading:
            plan = self._preparing.plan(self._capture.read())
        for path, tensor in plan.layout.tensors.items():
            found[path[0] if path[0] in found else path[1]] += tensor.nbytes
        return found

    def levels(self) -> Levels:
        """How full queue and memory are now; from any thread."""
        statuses = [handle.status for handle in tuple(self.handles)]
        return Levels(
            statuses.count("staging"), statuses.count("writing"), self._arenas.memory(), self._executor.heard or 0.0
        )

    def close(self, timeout: float) -> None:
        """Stop copying, and leave the other ranks within `timeout` seconds; arenas go as they are released."""
        self.rhythm.close()
        self.stager.close()
        self._arenas.close()
        self._ranks.part(timeout)
