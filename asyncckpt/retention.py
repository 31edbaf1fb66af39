"""Retention: which checkpoints stay. Pure: records in, removals with reasons out; nothing is touched.

A policy keeps the union of what its rules keep. Some checkpoints no rule can remove: the one just saved, the
latest, those being read in this process, and damaged ones, which are evidence and count in no rule.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from asyncckpt.format.record import Checkpoint, Removal

Monitor: TypeAlias = tuple[str, Literal["min", "max"]]
"""The metric that decides which checkpoint is best, and which way it improves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What stays after each save; None keeps everything.

    ``last``: the most recently saved ones, by sequence number.
    """

    last: int | None = None
    best: int | None = None
    every_steps: int | None = None
    every_epochs: int | None = None

    def __post_init__(self) -> None:
        for name in ("best", "every_steps", "every_epochs"):
            if getattr(self, name) is not None:
                raise ValueError(f"RetentionPolicy({name}=) has no effect in this version yet: use last=")
        if self.last is not None and self.last < 1:
            raise ValueError(f"RetentionPolicy(last={self.last}) would keep nothing: use last=1 or more")


def plan(
    policy: RetentionPolicy | None,
    checkpoints: Iterable[Checkpoint],
    *,
    newest: Checkpoint,
    protected: Collection[int] = (),
    damaged: Collection[int] = (),
) -> list[Removal]:
    """What the record of `newest` drops from `checkpoints` (the live ones before it), with reasons.

    `protected` and `damaged` are sequence numbers. An earlier checkpoint of the same step is replaced under
    every policy, since a step names at most one listed checkpoint.
    """
    removals = []
    sound = [c for c in checkpoints if c.seq not in damaged and c.seq != newest.seq]
    candidates = [c for c in sound if c.step != newest.step]
    kept = _last(policy, [*candidates, newest])
    for checkpoint in sorted(sound, key=lambda c: c.seq):
        if checkpoint.seq in protected:
            continue
        if checkpoint.step == newest.step:
            removals.append(Removal(checkpoint.seq, checkpoint.step, "replaced by a later save of its step"))
        elif checkpoint.seq not in kept:
            reason = f"not among the last {policy.last}" if policy else ""
            removals.append(Removal(checkpoint.seq, checkpoint.step, reason))
    return removals


def _last(policy: RetentionPolicy | None, checkpoints: Sequence[Checkpoint]) -> set[int]:
    seqs = sorted(c.seq for c in checkpoints)
    return set(seqs if policy is None or policy.last is None else seqs[-policy.last :])


def best_of(checkpoints: Iterable[Checkpoint], monitor: Monitor | None) -> Checkpoint | None:
    """The checkpoint with the best monitored metric: NaN never wins, and a tie keeps the older one."""
    if monitor is None:
        return None
    name, mode = monitor
    sign = 1.0 if mode == "min" else -1.0
    measured = [c for c in checkpoints if not math.isnan(c.metrics.get(name, math.nan))]
    return min(measured, key=lambda c: (sign * c.metrics[name], c.seq), default=None)
