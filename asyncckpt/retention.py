"""Retention: which checkpoints stay, and why. Pure: checkpoints in, a plan with reasons out; nothing is touched.

A policy keeps the union of what its rules keep; one without a rule keeps everything. Some checkpoints no rule can
remove: the one just saved, the best, pinned and tagged ones, those being read in this process, and those found damaged,
which are evidence and count in no rule. Partial ones count in none either, are never the best, and take no complete
one's place; they stay until a complete one is newer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from asyncckpt.format.record import Checkpoint, Removal

Monitor: TypeAlias = tuple[str, Literal["min", "max"]]
"""The metric that decides which checkpoint is best, and which way it improves."""

REPLACED = "replaced by a later save of its step"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What stays after each save: the union of all rules; None, or a policy without a rule, keeps everything.

    ``last``: the most recently saved ones, by sequence number. ``best``: the best by the monitored metric,
    of all that are listed. ``every_steps``: those whose step is a multiple. ``every_epochs``: the last one of each
    epoch that is a multiple. ``hourly``, ``daily``, ``weekly``, ``monthly``, ``yearly``: the last one of each of
    the most recent so many hours (days, ...; UTC) in which something was saved. Raises `ValueError` for less than 1,
    and `TypeError` for what is no whole number.
    """

    last: int | None = None
    best: int | None = None
    every_steps: int | None = None
    every_epochs: int | None = None
    hourly: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.rules():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"RetentionPolicy({name}={value!r}): use a whole number, or leave it out")
            if value < 1:
                effect = "means nothing" if name.startswith("every") else "would keep nothing"
                raise ValueError(f"RetentionPolicy({name}={value}) {effect}: use {name}=1 or more, or leave it out")

    def rules(self) -> Iterator[tuple[str, int]]:
        """The rules that are set, and their numbers."""
        for rule in fields(self):
            value = getattr(self, rule.name)
            if value is not None:
                yield rule.name, value

    def __str__(self) -> str:
        return ", ".join(rule_text(name, value) for name, value in self.rules()) or "everything"


def rule_text(name: str, value: int) -> str:
    """A rule for people: ``last 3``, ``every 10 epochs``."""
    return f"every {value} {name.removeprefix('every_')}" if name.startswith("every_") else f"{name} {value}"


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that stays, and everything that keeps it."""

    seq: int
    step: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What retention does: every checkpoint stays (`kept`) or goes (`removed`), each with its reasons, oldest first."""

    kept: tuple[Kept, ...]
    removed: tuple[Removal, ...]
    freed: int
    """Bytes in packs that no checkpoint uses any more afterwards."""


@dataclass(frozen=True, slots=True)
class Told:
    """What retention is told beside the policy, by sequence number."""

    latest: int | None = None
    """What a resume would take, where nothing is being saved."""
    parent: int | None = None
    """What the training goes on from, where nothing is being saved: another one if the latest is damaged."""
    reading: Collection[int] = ()
    damaged: Collection[int] = ()
    marks: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Pins and tags, in words: ``pinned``, ``tag paper``."""
    unwanted: Mapping[int, str] = field(default_factory=dict)
    """What is to go whatever the rules say, and why; marks, the latest and what is being read are stronger."""
    asked: Mapping[int, str] = field(default_factory=dict)
    """The same, but the best and damaged ones are stronger too: who asked may have meant another metric, and cannot
    know what this process has found out."""
    given_up: Collection[int] = ()
    """Of what is `asked` to go, what whoever asked knew to be damaged: that it is, is no reason to keep it."""

    @property
    def evidence(self) -> set[int]:
        """The damaged ones that stay for being that."""
        return set(self.damaged) - self.unwanted.keys() - (self.asked.keys() & set(self.given_up))


def plan(
    policy: RetentionPolicy | None,
    checkpoints: Iterable[Checkpoint],
    *,
    newest: Checkpoint | None = None,
    monitor: Monitor | None = None,
    told: Told | None = None,
) -> PrunePlan:
    """What stays and what goes of `checkpoints` (those listed before) and `newest`, which is about to be listed.

    An earlier checkpoint of the step of `newest` is replaced under every policy, since a step names at most one;
    unless it is the best of all and `newest` is not as good.
    """
    told = told or Told()
    listed = {c.seq: c for c in sorted((*checkpoints, *([newest] if newest else ())), key=lambda c: c.seq)}
    damaged = set(told.damaged)
    out = _out(told, listed, newest, monitor)
    reasons: defaultdict[int, list[str]] = defaultdict(list)
    for seq, reason in _spared(told, newest):
        reasons[seq].append(reason)
    for seq in told.evidence:
        reasons[seq].append("damaged")
    for seq in unreplaced(listed.values()):
        if seq not in out:
            reasons[seq].append("partial, and newer than every complete one")
    ruled = [c for seq, c in listed.items() if seq not in out and seq not in damaged]
    for seq, reason in _ruled(policy, ruled, monitor):
        reasons[seq].append(reason)
    gone = [seq for seq in listed if seq not in reasons]
    removed = [removal(listed[seq], out, policy) for seq in gone]
    kept = [Kept(seq, c.step, tuple(reasons[seq])) for seq, c in listed.items() if seq in reasons]
    return PrunePlan(tuple(kept), tuple(removed), _freed(listed, set(gone)))


def replaces(newest: Checkpoint, other: Checkpoint) -> bool:
    """Whether `newest` takes the place of `other`, of the same step: a partial one never that of a complete one."""
    same = newest.seq != other.seq and newest.step == other.step
    return same and (bool(other.partial) or not newest.partial)


def unreplaced(listed: Iterable[Checkpoint]) -> list[int]:
    """The partial ones that are newer than every complete one of `listed`: all that is left of their steps."""
    listed = list(listed)
    complete = max((c.seq for c in listed if not c.partial), default=0)
    return [c.seq for c in listed if c.partial and c.seq > complete]


Why: TypeAlias = tuple[str, str]
"""What removes something, of `asyncckpt.format.record.RULES`, and the same in words."""


def removal(gone: Checkpoint, out: Mapping[int, Why], policy: RetentionPolicy | None) -> Removal:
    """Why `gone` goes: as it is an outcast, or no rule of `policy` keeps it."""
    rule, reason = out.get(gone.seq, ("policy", f"no rule keeps it: {policy}"))
    return Removal(gone.seq, gone.step, reason, rule)


def _out(
    told: Told, listed: Mapping[int, Checkpoint], newest: Checkpoint | None, monitor: Monitor | None
) -> dict[int, Why]:
    sound = [c for c in listed.values() if c.seq not in told.damaged]
    replaced = [c for c in sound if newest and replaces(newest, c)]
    best = best_of((c for c in sound if c.seq not in told.unwanted), monitor)
    return outcast(told, replaced, best, newest, monitor)


def outcast(
    told: Told,
    replaced: Iterable[Checkpoint],
    best: Checkpoint | None,
    newest: Checkpoint | None,
    monitor: Monitor | None,
) -> dict[int, Why]:
    """What is to go whatever the rules say, and why.

    `replaced` are the sound ones of the step of `newest`, and `best` is the best of the sound ones not unwanted.
    """
    out = {seq: ("asked", reason) for seq, reason in told.asked.items()}
    out |= dict.fromkeys((c.seq for c in replaced), ("replaced", REPLACED))
    if best is not None:
        why, _ = out.get(best.seq, ("", ""))
        if not (why == "replaced" and newest is not None and _as_good(newest, best, monitor)):
            out.pop(best.seq, None)
    return out | {seq: ("overwritten", reason) for seq, reason in told.unwanted.items()}


Reason: TypeAlias = tuple[int, str]
"""A sequence number, and what keeps it."""


def _spared(told: Told, newest: Checkpoint | None) -> Iterator[Reason]:
    if newest is not None:
        yield newest.seq, "just saved"
    else:
        needed = {told.parent: "the training goes on from it", told.latest: "latest"}
        yield from ((seq, why) for seq, why in needed.items() if seq is not None)
    yield from ((seq, "being read") for seq in told.reading)
    yield from ((seq, mark) for seq, marks in told.marks.items() for mark in marks)


def _ruled(policy: RetentionPolicy | None, sound: Sequence[Checkpoint], monitor: Monitor | None) -> Iterator[Reason]:
    rules = dict(policy.rules()) if policy else {}
    if not rules:
        yield from ((c.seq, "everything is kept") for c in sound)
        return
    sound = [c for c in sound if not c.partial]  # in place of one of these no rule may count
    ranked = ranking(sound, monitor)
    if monitor is not None and ranked:  # whatever the rules are: nobody wants to lose it
        yield from ((c.seq, f"best {monitor[0]}, {c.metrics[monitor[0]]:g}") for c in ranked[:1])
    for name, number in rules.items():
        text = rule_text(name, number)
        if name == "last":
            yield from ((c.seq, text) for c in sound[-number:])
        elif name == "best":
            yield from ((c.seq, text) for c in ranked[:number])
        elif name == "every_steps":
            yield from ((c.seq, text) for c in sound if c.step % number == 0)
        elif name == "every_epochs":
            yield from _every_epochs(sound, number)
        else:
            yield from _bucketed(sound, name, number)


def _as_good(one: Checkpoint, other: Checkpoint, monitor: Monitor | None) -> bool:
    return monitor is not None and one.metrics.get(monitor[0]) == other.metrics.get(monitor[0])


def _every_epochs(sound: Sequence[Checkpoint], number: int) -> Iterator[Reason]:
    epochs = [c for c in sound if c.epoch and c.epoch % number == 0]
    for epoch, checkpoint in _newest_of_each(epochs, lambda c: c.epoch).items():
        yield checkpoint.seq, f"{rule_text('every_epochs', number)}, epoch {epoch}"


_BUCKETS: Mapping[str, str] = {
    "hourly": "%Y-%m-%d %H:00",
    "daily": "%Y-%m-%d",
    "weekly": "%G week %V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}
"""How a moment names its bucket, in UTC; weeks are those of ISO 8601."""


_END_OF_TIME = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())


def bucket(checkpoint: Checkpoint, rule: str) -> str:
    """The hour (day, ...) in which `checkpoint` was saved."""
    # A clock that has gone mad must not fail the save.
    moment = min(max(0, checkpoint.created // 1_000_000), _END_OF_TIME)
    return datetime.fromtimestamp(moment, UTC).strftime(_BUCKETS[rule])


def _bucketed(sound: Sequence[Checkpoint], name: str, number: int) -> Iterator[Reason]:
    found = _newest_of_each(sound, lambda checkpoint: bucket(checkpoint, name))
    # By time, not by sequence: a clock that was set back must not push a recent hour out.
    for when, checkpoint in sorted(found.items(), key=lambda item: (item[1].created, item[1].seq))[-number:]:
        yield checkpoint.seq, f"{rule_text(name, number)}, {when}"


def _newest_of_each(sound: Iterable[Checkpoint], group: Callable[[Checkpoint], Hashable]) -> dict[Hashable, Checkpoint]:
    return {group(checkpoint): checkpoint for checkpoint in sound}


def _freed(listed: Mapping[int, Checkpoint], gone: AbstractSet[int]) -> int:
    needed = {pack.key for seq, c in listed.items() if seq not in gone for pack in c.packs} if gone else set()
    freed = {pack.key: pack.length for seq in gone for pack in listed[seq].packs if pack.key not in needed}
    return sum(freed.values())


def ranking(checkpoints: Iterable[Checkpoint], monitor: Monitor | None) -> list[Checkpoint]:
    """Those with the monitored metric, best first: NaN never counts, and of equals the older one is better."""
    return [checkpoint for _, checkpoint in sorted(_ranked(checkpoints, monitor), key=_by_rank)]


Rank: TypeAlias = tuple[float, int]
"""What is less is better."""


def rank(checkpoint: Checkpoint, monitor: Monitor | None) -> Rank | None:
    """Where `checkpoint` stands in the ranking, or None if it does not count."""
    counts = monitor is not None and not checkpoint.partial
    value = checkpoint.metrics.get(monitor[0], math.nan) if counts and monitor is not None else math.nan
    if monitor is None or math.isnan(value):
        return None
    return (value if monitor[1] == "min" else -value), checkpoint.seq


def _ranked(checkpoints: Iterable[Checkpoint], monitor: Monitor | None) -> Iterator[tuple[Rank, Checkpoint]]:
    """Those that count."""
    return ((found, c) for c in checkpoints if (found := rank(c, monitor)) is not None)


def _by_rank(item: tuple[Rank, Checkpoint]) -> Rank:
    return item[0]


def monitor_of(checkpoints: Iterable[Checkpoint]) -> Monitor | None:
    """The metric that the newest checkpoint which names one was judged by."""
    newest = max((c for c in checkpoints if c.monitor), key=lambda c: c.seq, default=None)
    if newest is None or newest.monitor is None:
        return None
    return newest.monitor[0], "max" if newest.monitor[1] == "max" else "min"


def best_of(checkpoints: Iterable[Checkpoint], monitor: Monitor | None) -> Checkpoint | None:
    """The checkpoint with the best monitored metric: NaN never wins, and a tie keeps the older one."""
    found = min(_ranked(checkpoints, monitor), key=_by_rank, default=None)
    return None if found is None else found[1]
