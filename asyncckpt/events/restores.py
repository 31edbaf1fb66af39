"""What happens when checkpoints are read."""

from __future__ import annotations

from dataclasses import dataclass

from asyncckpt.events.event import Event
from asyncckpt.events.tiers import HOME


@dataclass(frozen=True, slots=True)
class Restoring(Event):
    """A restore has read and checked `done` of the `total` bytes that it has to read, `seconds` after it began.

    Told every few seconds, so that a short one tells nothing. A part that is checked before anything may change is read
    twice, and counts so. With `brought_from` it is not the restore yet: what that tier has and the root has not is
    brought to the root before.
    """

    step: int
    done: int
    total: int
    seconds: float
    brought_from: str | None = None


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
