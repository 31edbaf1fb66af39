"""What happens to what the catalog lists, and to what it lists no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asyncckpt.events.event import Event
from asyncckpt.events.tiers import HOME


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
    """The start's sweep removed `objects` leftovers of earlier incarnations.

    `unfinished` are those of saves that came after all that is listed and were not committed (``step 7 of incarnation
    2``): snapshots of theirs that were staged, on whatever host, are lost.
    """

    objects: int
    tier: str = HOME
    unfinished: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leftover(Event):
    """A hint, a deletion or a sweep failed after the commit: harmless, left to the next start."""

    what: str
    error: BaseException
    tier: str = HOME
