"""Stopping: what is done once a notice has come, between two steps, on all ranks after the same one.

::

    a notice comes     at any moment, to any rank             a handler or a thread takes it down
    the next step()    rank 0 weighs what there is time for   `asyncckpt.preemption.plan`
                       all ranks do that                      an emergency save, or a wait for one under way
    then               `Preempted` is raised, or ``should_stop`` is set

From the notice on everything has the deadline: the wait for a generation, for the save, and for the end of ``close``.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol
from weakref import ref

from asyncckpt.checkpoints.listing import CheckpointInfo
from asyncckpt.errors import AsyncCkptError, Preempted, PreemptionTimeoutError
from asyncckpt.events import Listeners, PreemptionEnded, PreemptionNoticed, PreemptionPlanned
from asyncckpt.preemption.among import AmongRanks
from asyncckpt.preemption.leaving import Leaving
from asyncckpt.preemption.notice import Notice, Notices
from asyncckpt.preemption.plan import Flight, Plan, Situation, hangs_in, plan, sentence
from asyncckpt.preemption.requeue import is_submitits
from asyncckpt.preemption.settings import Preemption
from asyncckpt.preemption.signals import Handler, Signals
from asyncckpt.preemption.sources import Source, source
from asyncckpt.preemption.speed import Speedometer
from asyncckpt.preemption.stop import Stop, closable, usable
from asyncckpt.preemption.tally import count_up
from asyncckpt.preemption.watching import PATIENCE, Watching
from asyncckpt.saves.handle import SaveHandle
from asyncckpt.saves.saving import Saver
from asyncckpt.saves.urgency import Urgency
from asyncckpt.saves.waiting import Waiting
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.ranks import Ranks

logger = logging.getLogger("asyncckpt")


class Warned(Protocol):
    """Whoever looks whether there may be notice, before it asks."""

    may_stop: bool


class Stopping:
    """Of one training; `speedometer` has to be told of its events.

    Made before anything is started: raises `TypeError`, `ValueError` or `RuntimeError` for what `settings` ask for and
    cannot be had.
    """

    def __init__(self, settings: Preemption | None, listeners: Listeners, speedometer: Speedometer) -> None:
        if settings is not None and not isinstance(settings, Preemption):
            raise TypeError(f"preemption={settings!r}: give Preemption(...)")
        self.should_stop = False
        self._settings = settings
        self._listeners = listeners
        self._speedometer = speedometer
        self._notices = Notices(self._warn)
        self._warned: ref[Warned] | None = None
        self._sources: list[Source] = [source(given) for given in settings.watch] if settings else []
        self._signals = Signals(settings.numbers() if settings else (), self._signalled, self._is_held_back)
        self._watching: Watching | None = None
        self._killed_at: float | None = None
        self._let_go_at: float | None = None
        self._has_resumed = False
        self._concluding: threading.Thread | None = None

    def begin(self, saver: Saver, executor: Executor, ranks: Ranks) -> None:
        """From now on notices count."""
        self._saver = saver
        self._executor = executor
        self._ranks = ranks
        if self._settings is None:
            return
        saver.ends = self.ends
        among = [AmongRanks(ranks, self._notices)] if ranks.world > 1 else []
        sources = [*self._sources, *among]
        self._watching = Watching(sources, self._notices, self._settings.deadline, self._listeners)
        self._watching.start()
        self._signals.install()

    def warn(self, owner: Warned) -> None:
        """Set its ``may_stop`` once there is notice; now where there are other ranks, who may have it."""
        self._warned = ref(owner)
        if self._notices.heard or (self._settings is not None and self._ranks.world > 1):
            self._warn()

    def _warn(self) -> None:
        """In a handler, or whatever thread has heard something."""
        owner = None if self._warned is None else self._warned()
        if owner is not None:
            owner.may_stop = True

    def resumed(self) -> None:
        """The training goes on from what the run holds: how often it was preempted counts on."""
        self._has_resumed = True

    # -- at any moment -------------------------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        """In a handler."""
        if self._settings is not None:
            deadline = time.monotonic() + self._settings.deadline
            self._notices.give(Notice(signal.Signals(number).name, deadline, number))

    def _is_held_back(self, handler: Handler) -> bool:
        """Submitit's handler puts the job back and ends the process: not before the save."""
        return self._settings is not None and self._settings.requeue in ("auto", "submitit") and is_submitits(handler)

    # -- between two steps ---------------------------------------------------------------------------------

    def due(self, step: int, *, within: bool = False) -> Stop | None:
        """Whether to stop after `step`, or `within` the next one, and how; on rank 0, which decides for all."""
        if not self._notices.heard:  # as at nearly every step
            return None
        notice = self._notices.first
        if notice is None or self._killed_at is not None:
            return None
        left = notice.left
        if left <= 0 and self._settings is not None:
            logger.warning("%s: the time that it left is over, and this process is not killed yet", notice.source)
            left = self._settings.deadline  # who gave it was wrong, or this step was long: as much again, or nothing
        return Stop(notice.source, notice.signum, left, self._plan(step, usable(left), within=within))

    def urgency(self, step: int, seconds: float | None, alike: Callable[[int, Callable[[], Plan]], Plan]) -> Urgency:
        """That of a save of `step` that the user calls an emergency; all ranks plan `alike`."""
        if seconds is None:
            measured = self._speedometer
            hangs = hangs_in(self._flights(), measured.speed if measured.failed is None else None)
            return Urgency(memory_by=None if hangs is None else time.monotonic() + hangs)
        end = time.monotonic() + seconds
        decided = alike(step, lambda: self._plan(step, seconds, asked=True))
        logger.warning("emergency at step %d: %s. %s", step, sentence(decided), "; ".join(decided.reasons))
        return urgency(decided, end)

    def _plan(self, step: int, left: float, *, asked: bool = False, within: bool = False) -> Plan:
        measured = self._speedometer
        sizes = self._saver.sizes()
        known = measured.speed, measured.local, measured.failed, measured.saved
        return plan(Situation(step, left, sizes, self._flights(), *known, asked=asked, within=within))

    def _flights(self) -> list[Flight]:
        return [flight(handle) for handle in self._saver.handles if not handle.done()]

    def act(self, step: int, stop: Stop, save: Callable[[Urgency], SaveHandle]) -> SaveHandle | None:
        """Do what `stop` says after `step`; raises `Preempted`, or returns the handle of what is saved."""
        settings = self._settings or Preemption()  # another rank's, where this one was given none
        end = time.monotonic() + usable(stop.seconds)
        self._killed_at = time.monotonic() + stop.seconds
        self._let_go_at = time.monotonic() + closable(stop.seconds)
        leaving = Leaving(settings, self._count, self._killed_at, is_leader=self._ranks.rank == 0)
        self._tell(step, stop)
        if settings.exit == "flag":
            handles = self._carry_out(stop.plan, save, end)
            self.should_stop = True
            self._concluding = threading.Thread(
                target=self._conclude, args=(step, handles, end, leaving), name="asyncckpt-stopping", daemon=True
            )
            self._concluding.start()
            return handles[-1] if handles else None
        error = self._saved(step, stop.plan, save, end, leaving)
        self.pass_on()
        raise Preempted(leaving.code(stop.signum), step, stop.source, self._speedometer.saved) from error

    def _tell(self, step: int, stop: Stop) -> None:
        decided = stop.plan
        logger.warning("%s: this process will be killed in %.1f s", stop.source, stop.seconds)
        logger.warning("after step %d: %s. %s", step, sentence(decided), "; ".join(decided.reasons))
        self._listeners.emit(PreemptionNoticed(step, stop.source, stop.seconds))
        left = usable(stop.seconds)
        self._listeners.emit(PreemptionPlanned(step, decided.action, left, decided.seconds, decided.reasons))

    def _saved(
        self, step: int, decided: Plan, save: Callable[[Urgency], SaveHandle], end: float, leaving: Leaving
    ) -> BaseException | None:
        try:
            handles = self._carry_out(decided, save, end)
        except Exception as error:  # of the call itself: that is no reason to stay
            return self._end(step, "failed", error, leaving)
        return self._conclude(step, handles, end, leaving)

    def _carry_out(self, decided: Plan, save: Callable[[Urgency], SaveHandle], end: float) -> Sequence[SaveHandle]:
        """Begin it; returns what is to be waited for."""
        if decided.action == "nothing":
            return ()
        if decided.first:
            part = urgency(replace(decided, leaves_out=decided.first), end)
            # What gives way has given way to that; it does not give way to the other.
            return save(part), save(replace(part, leaves_out=(), takes_over=False, gives_up=False))
        if decided.action != "finish":
            return (save(urgency(decided, end)),)
        self._saver.settle()
        under_way = [handle for handle in self._saver.handles if not handle.done()]
        return under_way[:1] if decided.takes_over else under_way

    def _conclude(self, step: int, handles: Sequence[SaveHandle], end: float, leaving: Leaving) -> BaseException | None:
        """Wait for what was begun, until `end`; what went wrong is told, and returned."""
        outcome = "nothing"
        error: BaseException | None = None
        for handle in handles:
            try:
                outcome, error = _outcome(handle, end), None
            except AsyncCkptError as failure:
                error = failure
                if outcome != "partial":  # which is there, although what followed it is not
                    outcome = "late" if isinstance(failure, PreemptionTimeoutError) else "failed"
        return self._end(step, outcome, error, leaving)

    def _end(self, step: int, outcome: str, error: BaseException | None, leaving: Leaving) -> BaseException | None:
        left = self._left
        level = logging.WARNING if error is None else logging.ERROR
        why = "" if error is None else f": {error}"
        logger.log(level, "preempted after step %d: %s, %.1f s before the end%s", step, outcome, left, why)
        self._listeners.emit(PreemptionEnded(step, outcome, left))
        leaving.settle(max(0.0, (self._let_go_at or 0.0) - time.monotonic()))
        leaving.requeue(max(0.1, self._left), is_others=self._signals.holds_back)
        return error

    def _count(self) -> int:
        return self._executor.read(lambda catalog: count_up(catalog.storage, resumed=self._has_resumed))

    # -- the end -------------------------------------------------------------------------------------------

    @property
    def _left(self) -> float:
        return (self._killed_at or 0.0) - time.monotonic()

    def ends(self) -> float | None:
        """When everybody is let go who waits, by the monotonic clock; None without a notice.

        With what the process needs to end in order left over, or the interpreter alone once a step knows of it.
        """
        if self._let_go_at is not None:
            return self._let_go_at
        notice = self._notices.first
        if notice is None or self._settings is None:
            return None
        return notice.deadline - (self._settings.deadline - usable(self._settings.deadline))

    def waiting(self, timeout: float | None) -> Waiting:
        """Of a call from now on that is to wait for `timeout` seconds, and no longer than a notice leaves."""
        if self._killed_at is None or self._let_go_at is None:
            return Waiting(timeout, None if self._settings is None else self.ends)
        now = time.monotonic()
        is_overdue = self._let_go_at <= now < self._killed_at
        return Waiting(timeout, self.ends, now if is_overdue else None)

    def close(self) -> None:
        """Notices count no more; handlers are as they were. What follows a save that was waited for is done first."""
        if self._concluding is not None:
            self._concluding.join(max(0.0, self._left))
        if self._watching is not None:
            self._watching.stop(self.waiting(PATIENCE).left or 0.0)
        self._signals.restore()

    def pass_on(self) -> None:
        """Call the handlers that were held back until everything else is done: they end the process."""
        self._signals.pass_on()


def flight(handle: SaveHandle) -> Flight:
    """A save under way, as the plan sees it."""
    elapsed = None if handle.began is None else time.monotonic() - handle.began
    return Flight(handle.step, handle.nbytes, elapsed, handle.is_nearer)


def urgency(decided: Plan, end: float) -> Urgency:
    """How a save is made that was `decided`, and is waited for until `end`."""
    return Urgency(
        deadline=end,
        memory_by=None if decided.waits is None else time.monotonic() + decided.waits,
        leaves_out=decided.leaves_out,
        takes_over=decided.takes_over,
        gives_up=decided.gives_up,
        local_only=decided.action == "local",
    )


def _outcome(handle: SaveHandle, end: float) -> str:
    """What became of a save that was begun, by `end`; raises why it is nowhere."""
    try:
        return "partial" if _durable(handle, end).partial else "durable"
    except AsyncCkptError:  # whatever the root did with it
        if not handle.is_nearer:
            raise
        return "local"


def _durable(handle: SaveHandle, end: float) -> CheckpointInfo:
    try:
        return handle.wait(max(0.0, end - time.monotonic()))
    except PreemptionTimeoutError:
        raise
    except TimeoutError as error:
        raise PreemptionTimeoutError(f"{error}; what was durable before is as it was") from None
