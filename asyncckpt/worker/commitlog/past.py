"""Past: what a service that crashed knew, and the one that takes its place has to know."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncckpt.errors import Fenced
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import WriterId


@dataclass(frozen=True, slots=True)
class Claim:
    """A training's hold on its run, whichever service it goes through."""

    me: WriterId
    inc: int | None = None
    """The incarnation that it has had last; None before it has taken the run."""
    first_seq: int = 0
    """The first sequence number that was its to give."""
    resumed: bool = False
    fenced: Fenced | None = None
    """Who has taken the run, once somebody has."""


@dataclass(frozen=True, slots=True)
class Past:
    """`reading` counts who reads a checkpoint, by sequence number, and `found` is damage; both go on being changed."""

    claim: Claim
    reading: dict[int, int] = field(default_factory=dict)
    found: dict[Finding, Damage] = field(default_factory=dict)
