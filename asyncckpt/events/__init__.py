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

from asyncckpt.events.conditions import Fallback, Ignored, Retried, Shortage, Weighed, WorkerRuns
from asyncckpt.events.event import Event
from asyncckpt.events.keeping import Amended, Deleted, Leftover, Pruned, Retained, Swept
from asyncckpt.events.listeners import Listener, Listeners
from asyncckpt.events.notices import PreemptionEnded, PreemptionNoticed, PreemptionPlanned
from asyncckpt.events.restores import Damaged, Restored, RestoreFailed, Restoring, Resumed
from asyncckpt.events.saves import (
    Durable,
    Expected,
    Failed,
    OverBudget,
    Paced,
    Requested,
    Skipped,
    Staged,
    Stalled,
    Superseded,
)
from asyncckpt.events.tiers import HOME, LOCAL, Ahead, TierDurable, TierFailed

__all__ = [
    "HOME",
    "LOCAL",
    "Ahead",
    "Amended",
    "Damaged",
    "Deleted",
    "Durable",
    "Event",
    "Expected",
    "Failed",
    "Fallback",
    "Ignored",
    "Leftover",
    "Listener",
    "Listeners",
    "OverBudget",
    "Paced",
    "PreemptionEnded",
    "PreemptionNoticed",
    "PreemptionPlanned",
    "Pruned",
    "Requested",
    "RestoreFailed",
    "Restored",
    "Restoring",
    "Resumed",
    "Retained",
    "Retried",
    "Shortage",
    "Skipped",
    "Staged",
    "Stalled",
    "Superseded",
    "Swept",
    "TierDurable",
    "TierFailed",
    "Weighed",
    "WorkerRuns",
]
