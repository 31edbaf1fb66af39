"""Listing: what the head of a run lists, and how checkpoints are named in it."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError
from asyncckpt.format.findings import Finding
from asyncckpt.format.marks import Mark
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.retention import Monitor, best_of, monitor_of

Which: TypeAlias = Literal["latest", "best"] | int | str
"""A checkpoint by word, by step (an int), by id (a string of digits: its sequence number), or by tag."""


def which_of(which: Any) -> Which:
    """`which` as it was given, a step of any integer type as an int; raises `TypeError` for what names nothing."""
    if isinstance(which, str):
        return which
    if not isinstance(which, bool):
        with suppress(TypeError):
            return operator.index(which)
    raise TypeError(
        f'which={which!r} names no checkpoint: use "latest", "best", a step (an integer), an id or a tag (a string)'
    )


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One listed checkpoint, for people: `id` and `seq` are its number, as text and as one.

    `step`, `epoch` and `metrics` are what the save was told, `tags` what people call it,
    `code_version` what trained it. It is `pinned` where somebody did that, and `is_best` by the monitored metric.
    """

    id: str
    seq: int
    step: int
    epoch: int | None
    metrics: Mapping[str, float]
    size: int
    """Bytes of state."""
    created: float
    """Seconds since the epoch at the save call."""
    digest: str
    """Digest of its manifest, and so of all its content."""
    tags: tuple[str, ...] = ()
    pinned: bool = False
    is_best: bool = False
    partial: bool = False
    """Whether parts of the state are not in it, since there was no time for them."""
    code_version: str | None = None
    damaged: bool = False
    """Whether somebody found it damaged, and nobody has found it sound since."""
    message: str | None = None
    """What `SavePolicy.message` made of it."""


def info_of(
    checkpoint: Checkpoint, *, is_best: bool = False, marks: Iterable[Mark] = (), damaged: bool = False
) -> CheckpointInfo:
    """What people see of `checkpoint`."""
    return CheckpointInfo(
        id=f"{checkpoint.seq:08d}",
        seq=checkpoint.seq,
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        metrics=dict(checkpoint.metrics),
        size=checkpoint.size,
        created=checkpoint.created / 1e6,
        digest=checkpoint.manifest.digest,
        tags=tuple(mark.tag for mark in marks if mark.tag is not None),
        pinned=any(mark.tag is None for mark in marks),
        is_best=is_best,
        partial=bool(checkpoint.partial),
        code_version=checkpoint.code_version,
        damaged=damaged,
        message=checkpoint.message,
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """What one head lists: its checkpoints by rising sequence number, and live slots whose record is lost.

    Without a head it is what is on record, and nobody knows which of that is listed, the latest, or the best.
    """

    head: Record | None
    records: tuple[Record, ...] = ()
    lost: Mapping[int, CheckpointCorruptError] = field(default_factory=dict)
    marks: Mapping[int, tuple[Mark, ...]] = field(default_factory=dict)
    """Pins and tags by sequence number, of what is listed and of what is gone."""
    findings: Collection[Finding] = ()
    """What was found damaged, of what is listed and of what is gone."""
    judge: Monitor | None = None
    """What the reader calls best; None for the metric that the newest checkpoint was judged by."""

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The listed checkpoints by rising sequence number."""
        return [r.checkpoint for r in self.records if r.checkpoint is not None]

    @property
    def monitor(self) -> Monitor | None:
        """The metric that says which checkpoint is best."""
        return self.judge or monitor_of(self.checkpoints)

    @property
    def best(self) -> Checkpoint | None:
        """The best by the monitor; None where nobody knows."""
        return best_of(self.checkpoints, self.monitor) if self.head else None

    def infos(self) -> list[CheckpointInfo]:
        """Every listed checkpoint for people, oldest first."""
        best = self.best
        return [
            info_of(c, is_best=c is best, marks=self.marks.get(c.seq, ()), damaged=self.is_damaged(c))
            for c in self.checkpoints
        ]

    def is_damaged(self, checkpoint: Checkpoint) -> bool:
        """Whether somebody found it damaged."""
        return bool(self.findings) and Finding.of(checkpoint) in self.findings

    def candidates(self, *, partial: bool = False) -> list[Checkpoint]:
        """What a resume may take, best first: the latest, then what that training came from.

        What lies between a checkpoint and its parent is a branch that a rollback abandoned, and no candidate. Of those
        that are `partial` only the ones since the latest are any, and only if they are asked for.
        """
        if self.head is None:
            return []
        latest = self.head.latest or 0
        limit: int | None = latest
        newest_first = sorted(self.checkpoints, key=lambda c: c.seq, reverse=True)
        found = [c for c in newest_first if partial and c.partial and c.seq > latest]
        for checkpoint in newest_first:
            if limit is not None and checkpoint.seq <= limit:
                if not checkpoint.partial:
                    found.append(checkpoint)
                limit = checkpoint.parent
        return found

    def find(self, which: Which) -> Checkpoint:
        """The named checkpoint; raises `CheckpointNotFoundError` saying what there is."""
        found = self.get(which)
        if found is None:
            raise CheckpointNotFoundError(f"no checkpoint {which!r}: {self._offer()}")
        return found

    def get(self, which: Which) -> Checkpoint | None:
        """The named checkpoint, or None."""
        if which == "latest":
            return next(iter(self.candidates()), None)
        if which == "best":
            return self.best
        if isinstance(which, int):
            return _newest(c for c in self.checkpoints if c.step == which)
        if which.isdecimal():
            return _newest(c for c in self.checkpoints if c.seq == int(which))
        return self._tagged(which)

    def _tagged(self, tag: str) -> Checkpoint | None:
        found = [c for c in self.checkpoints if Mark(c.seq, tag) in self.marks.get(c.seq, ())]
        if len(found) > 1:
            ids = " and ".join(f"{c.seq:08d}" for c in found)
            raise CheckpointNotFoundError(f"the tag {tag!r} names {ids}: delete it from all but one, or name an id")
        return found[0] if found else None

    def _offer(self) -> str:
        if not self.records:
            return "the run holds none"
        steps = ", ".join(str(c.step) for c in self.checkpoints[-10:])
        return f"steps {steps} are there" if len(self.records) <= 10 else f"the newest are of steps {steps}"


def find(listing: Listing, which: Which, url: str) -> Checkpoint:
    """The checkpoint that `which` names in the run at `url`.

    Raises `CheckpointNotFoundError`, or `CheckpointCorruptError` where it may be one whose record is lost.
    """
    try:
        return listing.find(which)
    except CheckpointNotFoundError as error:
        if not listing.lost:
            raise CheckpointNotFoundError(f"{url}: {error}") from None
        lost = "; ".join(map(str, listing.lost.values()))
        raise CheckpointCorruptError(f"{url}: {error}; or its record is one that is lost: {lost}") from None


def _newest(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The newest complete one, or the newest."""
    return max(checkpoints, key=lambda c: (not c.partial, c.seq), default=None)
