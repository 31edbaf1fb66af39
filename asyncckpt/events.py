"""Events: what happened to checkpoints, as frozen values, and the listeners that are told.

A listener is any object with an ``on_event(event)`` method. Listeners are observers: one that raises is
logged and the next is told all the same, so that no metric, tracker or callback can harm a save. They are told in
the order in which they were given, the log before them and the metrics after them.

Each save begins with `Requested`, and ends with exactly one of `Durable`, `Failed`, `Superseded` and `Skipped`, told in
the order in which saves end. `Staged` comes from the thread that copies, which never waits for a listener before it
lets the commit go on: for a state of a few kilobytes it may arrive after `Durable`. After `Durable` come the `Pruned`
of the same commit, then `Retained`; `Deleted` follows one commit later. A restore ends with `Restored` or
`RestoreFailed`, after any `Damaged` that it met and any `Restoring`, which says how far it is; `Resumed` is the last
that ``resume()`` tells. What happens in another tier than home, the root that the user named, is told in no order with
what happens there, and has that tier's name in `tier`.

`Requested`, `Stalled`, `OverBudget`, `Paced`, `Expected`, `Skipped` and `Superseded` may arrive on the training thread,
which a slow listener holds up; `Restored`, `RestoreFailed`, `Resumed` and `Damaged` arrive on the thread that restores,
but for damage that a copy meets; `PreemptionNoticed` and `PreemptionPlanned` arrive on the training thread, and so do
`PreemptionEnded` with ``exit="raise"`` and `Weighed`. Everything else arrives on background threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

logger = logging.getLogger("asyncckpt")

HOME = "home"
"""The tier that the user named as the root; others are what they are called as an argument."""

LOCAL = "local"
"""The one that has every save before home has it."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the checkpoints of one root."""


@dataclass(frozen=True, slots=True)
class Requested(Event):
    """A save was asked for: it has a handle from now on, or the call raises `error`."""

    step: int
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Stalled(Event):
    """The training thread spent `seconds` in this package: in ``call`` (the save) or ``guard`` (the hook)."""

    step: int
    seconds: float
    where: str


@dataclass(frozen=True, slots=True)
class OverBudget(Event):
    """A save held the training thread for `seconds`, more than the `budget` for that.

    It was given up where `dropped`; else it could not be: what is EAGER is copied in any case, and an explicit save is
    made whatever it takes.
    """

    step: int
    seconds: float
    budget: float
    dropped: bool


@dataclass(frozen=True, slots=True)
class Paced(Event):
    """Background work takes this `share` of its time from now on.

    `slowdown` is what steps took longer with a save in flight, as a part of those without, and `target` what they may.
    `usual` and `taken` are the seconds of either.
    """

    share: float
    slowdown: float
    target: float
    usual: float
    taken: float


@dataclass(frozen=True, slots=True)
class Expected(Event):
    """Between two periodic saves usually lie `seconds`, by the policy and by how long steps take now.

    Told when that is known, and again when it has changed by more than a tenth.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Staged(Event):
    """The snapshot is complete in the arena; `seconds` after the save call began."""

    step: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Durable(Event):
    """The checkpoint is committed; `seconds` after the save call began.

    `bytes` is the size of its state, `written` what this process put into new packs: less, where it shares old ones.
    `phases` are the seconds that the worker spent in each of them: open, write, stage, report, commit. For `rested`
    seconds of them it did nothing, to spare the training. `partial` are the parts of the state that it lacks.
    """

    step: int
    seq: int
    bytes: int
    seconds: float
    created: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    written: int = 0
    phases: Mapping[str, float] = field(default_factory=dict)
    rested: float = 0.0
    partial: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """The save failed in `phase` (open, stage, write, report, commit, worker); nothing partial is listed."""

    step: int
    phase: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class TierDurable(Event):
    """The checkpoint is committed in `tier` too (``local``, before it is durable, or ``mirror``, after that), `seconds`
    after the save call; in ``home`` where ``resume()`` has brought it there from the local tier.

    `bytes` is the size of its state, `written` what had to be put there for it, which took `spent` seconds.
    """

    tier: str
    step: int
    seq: int
    bytes: int
    written: int
    seconds: float
    created: float
    spent: float


@dataclass(frozen=True, slots=True)
class TierFailed(Event):
    """What was to be kept in `tier` too is not there: that checkpoint, or any where `step` is None. No save failed.

    Where `is_final`, nothing more is tried; else the newest checkpoint is, a while later.
    """

    tier: str
    step: int | None
    error: BaseException
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Ahead(Event):
    """The local tier holds so many `checkpoints` that the root has not got yet, in packs of so many `bytes`.

    `given_up` of them were dropped just now although the root has not got them: the disk had no more room.
    """

    checkpoints: int
    bytes: int
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class Skipped(Event):
    """A periodic save found every generation busy."""

    step: int


@dataclass(frozen=True, slots=True)
class Superseded(Event):
    """The snapshot of `step` was replaced by the one of `by_step` before it was written; with a local tier maybe only
    before it was taken to the root: then it is there.
    """

    step: int
    by_step: int


@dataclass(frozen=True, slots=True)
class Pruned(Event):
    """Retention dropped a checkpoint from the catalog, for `reason`; `rule` is one of ``policy`` (no rule keeps it),
    ``replaced`` (by a later save of its step), ``asked`` (by somebody) and ``overwritten`` (by a new training).
    """

    step: int
    seq: int
    reason: str
    rule: str
    tier: str = HOME


@dataclass(frozen=True, slots=True)
class Retained(Event):
    """What the catalog lists after a commit, a prune or a resume, and the bytes of its packs, each counted once.

    Rank 0's to tell.
    """

    checkpoints: int
    bytes: int
    tier: str = HOME


@dataclass(frozen=True, slots=True)
class Amended(Event):
    """Late metrics were attached to a listed checkpoint; `metrics` are all that it has now."""

    step: int
    seq: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Deleted(Event):
    """What an earlier commit had dropped is off the store: `objects`, with `bytes` in packs."""

    objects: int
    bytes: int
    seconds: float
    tier: str = HOME


@dataclass(frozen=True, slots=True)
class Swept(Event):
    """The start's sweep removed `objects` leftovers of earlier incarnations."""

    objects: int
    tier: str = HOME


@dataclass(frozen=True, slots=True)
class Restoring(Event):
    """A restore has read and checked `done` of the `total` bytes that it has to read, `seconds` after it began.

    Told every few seconds, so that a short one tells nothing. A part that is checked before anything may change is read
    twice, and counts so.
    """

    step: int
    done: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Restored(Event):
    """A checkpoint was restored; to read, check and put back its `bytes` took `seconds`."""

    step: int
    seq: int
    bytes: int
    seconds: float
    tier: str = HOME


@dataclass(frozen=True, slots=True)
class RestoreFailed(Event):
    """A ``resume()`` or ``restore()`` raised `error`."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """Training goes on from this checkpoint, which was saved at `created` (Unix time)."""

    step: int
    seq: int
    created: float


@dataclass(frozen=True, slots=True)
class Damaged(Event):
    """A listed checkpoint is not what its digests say; None where its record itself is lost.

    `kind` says how in one word: ``record``, ``missing``, ``unreadable`` or ``content``.
    """

    step: int | None
    seq: int | None
    reason: str
    kind: str
    tier: str = HOME


@dataclass(frozen=True, slots=True)
class Fallback(Event):
    """Something ran in a slower or weaker way than it could: `feature` and why."""

    feature: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retried(Event):
    """Requests to an object store that were made again since this was told last: `count`, by `reason` (slow_down,
    conflict, server_error, timeout, reset, damaged, unreachable).
    """

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class WorkerRuns(Event):
    """A worker process, the first or one that takes another's place, runs `seconds` after it was started.

    As it has found itself: at what `nice`, on which cores (`cpus`), and which of those that training may use it keeps
    off (`spared`).
    """

    pid: int
    seconds: float
    nice: int
    cpus: tuple[int, ...]
    spared: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ignored(Event):
    """A message between this process and its worker process was left out: one of an ``unknown`` kind (what it calls
    itself is `kind`), a ``malformed`` one, or a ``late`` one, of a save that is over, which is no fault.
    """

    why: str
    kind: str


@dataclass(frozen=True, slots=True)
class Weighed(Event):
    """``executor="auto"`` chose ``thread`` or ``process`` for a state of about `bytes`: a process above `break_even`.

    `rate` is how many bytes were digested per second, None where nothing had to be measured. Told when a checkpointer
    is made, by the thread that makes it; where that process cannot be had, a `Fallback` follows.
    """

    executor: str
    bytes: int
    break_even: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class Shortage(Event):
    """Before the first save, or one of a state that has grown: it needs more of a `resource` (memory, memlock, disk,
    store) than there is.

    `sentence` says what, and what to do about it.
    """

    resource: str
    sentence: str


@dataclass(frozen=True, slots=True)
class PreemptionNoticed(Event):
    """Somebody has said that this process will be killed, in `seconds`; told at the step after which it acts on that.

    `source` is the name of a signal, or of what was watched: aws, gcp, azure, slurm, file.
    """

    step: int
    source: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PreemptionPlanned(Event):
    """What is done about it, and why: `decision` is ``save`` (the whole state), ``weights`` (a partial checkpoint),
    ``local`` (the nearer tier), ``finish`` (what is under way) or ``nothing`` (the step is saved already).

    `seconds` are left for it, and it is expected to take `expected`, None where nothing was measured yet.
    """

    step: int
    decision: str
    seconds: float
    expected: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreemptionEnded(Event):
    """What came of it: ``durable``, ``partial``, ``local`` (whole, on the local tier only), ``nothing`` (that was the
    decision), ``late`` or ``failed``.

    `seconds` were left still before the process would have been killed.
    """

    step: int
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Leftover(Event):
    """A hint, a deletion or a sweep failed after the commit: harmless, left to the next start."""

    what: str
    error: BaseException
    tier: str = HOME


@runtime_checkable
class Listener(Protocol):
    """Told of every event; must not block for long, since it runs where the event happened."""

    def on_event(self, event: Event) -> None: ...


class Listeners:
    """The listeners of one checkpointer, told in the order in which they were given."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = tuple(listeners)

    def emit(self, event: Event) -> None:
        """Tell every listener; an exception of one is logged and harms neither the others nor the save."""
        for listener in self._listeners:
            try:
                listener.on_event(event)
            except BaseException as error:
                # In the main thread it may be the user's Ctrl-C; in any other it would end a worker for nothing.
                if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                    raise
                logger.exception("listener %r failed on %r", listener, event)
