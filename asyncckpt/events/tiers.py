"""What happens to checkpoints in tiers: home, which the user named as the root, and those beside it."""

from __future__ import annotations

from dataclasses import dataclass

from asyncckpt.events.event import Event

HOME = "home"
"""The tier that the user named as the root; others are what they are called as an argument."""

LOCAL = "local"
"""The one that has every save before home has it."""


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
