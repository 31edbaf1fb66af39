"""What happens when there is notice that the process will be killed."""

from __future__ import annotations

from dataclasses import dataclass

from asyncckpt.events.event import Event


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

    `seconds` are left for it, and it is expected to take `expected`, None where nobody knows: nothing was
    measured yet, or the store is not what it was.
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
