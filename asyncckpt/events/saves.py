"""What happens to saves, from the call that asks for one to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from asyncckpt.events.event import Event


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

    It was given up where `dropped`; else it could not be: what is EAGER is copied and compared in any case, and an
    explicit save is made whatever it takes.
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
    seconds of them it did nothing, to spare the training. `partial` are the parts of the state that it lacks, `epoch`
    is what the save was told, `message` what the checkpoint says of itself.
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
    epoch: int | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """The save failed in `phase` (open, stage, write, report, commit, worker); nothing partial is listed."""

    step: int
    phase: str
    error: BaseException


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
