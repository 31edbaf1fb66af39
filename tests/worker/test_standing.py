"""Standing: what retention removes, found from what changed, is what the plan finds by looking at everything."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncckpt.format.record import Checkpoint, ObjectRef, PackUse
from asyncckpt.retention import Monitor, RetentionPolicy, Told, best_of, monitor_of, plan
from asyncckpt.worker.commitlog.contest import Contest
from asyncckpt.worker.commitlog.standing import Standing
from asyncckpt.worker.commitlog.uses import Uses

MONITORS: tuple[Monitor | None, ...] = (None, ("loss", "min"), ("loss", "max"), ("score", "max"))
EPOCH = int(datetime(2026, 3, 29, tzinfo=UTC).timestamp() * 1e6)  # the clocks change in Europe, and a month ends
HOUR = 3_600_000_000

values = st.integers(1, 9).map(float) | st.sampled_from([0.0, -0.0, 0.5, 1.0, math.nan, math.inf, -math.inf])
numbers = st.none() | st.integers(1, 4)
policies = st.none() | st.builds(
    RetentionPolicy,
    last=numbers,
    best=numbers,
    every_steps=numbers,
    every_epochs=numbers,
    hourly=numbers,
    daily=numbers,
    weekly=numbers,
    monthly=numbers,
    yearly=numbers,
)
hours = st.sampled_from([0.2, 1, 7, 24, 60, 200, 1000, 9000]).map(lambda span: int(span * HOUR))
moments = st.builds(lambda span, times: EPOCH + span * times, hours, st.integers(-4, 4)) | st.sampled_from(
    [-(10**21), 0, 10**21]
)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    """Anything but its number."""
    names = draw(st.just({"loss"}) | st.sets(st.sampled_from(["loss", "score"])))
    return Checkpoint(
        seq=0,
        step=draw(st.integers(0, 8)),
        epoch=draw(st.none() | st.integers(0, 5)),
        world=1,
        parent=None,
        created=draw(moments),
        metrics={name: draw(values) for name in sorted(names)},
        manifest=ObjectRef("data/0/manifest.json", 1, ""),
        packs=(),
        monitor=draw(st.sampled_from(MONITORS)),
        partial=draw(st.sampled_from([(), (), (), ("optimizer",)])),
    )


@dataclass(frozen=True)
class Round:
    """A save, and what becomes of it; `numbers` are places among what is listed, counted from the newest."""

    newest: Checkpoint
    monitor: Monitor | None
    reading: frozenset[int]
    damaged: frozenset[int]
    marks: frozenset[int]
    asked: frozenset[int]
    given_up: frozenset[int]
    unwanted: frozenset[int]
    dropped: frozenset[int]
    is_durable: bool

    def told(self, listed: list[Checkpoint]) -> Told:
        """What retention is told; 0 and what is too far back is not listed."""

        def seqs(places: frozenset[int]) -> list[int]:
            return [listed[-place].seq if 0 < place <= len(listed) else 1000 + place for place in places]

        return Told(
            latest=1,
            parent=1,
            reading=seqs(self.reading),
            damaged=seqs(self.damaged),
            marks={seq: ["pinned"] for seq in seqs(self.marks)},
            asked=dict.fromkeys(seqs(self.asked), "asked for by me"),
            given_up=seqs(self.given_up),
            unwanted=dict.fromkeys(seqs(self.unwanted), "overwritten by a new training"),
        )


places = st.frozensets(st.integers(0, 12), max_size=4)
seldom = st.just(frozenset[int]()) | places
monitors = st.just(MONITORS[1]) | st.sampled_from(MONITORS)
rounds = st.builds(
    Round,
    newest=checkpoints(),
    monitor=monitors,
    reading=seldom,
    damaged=seldom,
    marks=places,
    asked=places,
    given_up=seldom,
    unwanted=seldom,
    dropped=seldom,
    is_durable=st.booleans() | st.just(True),
)


@settings(max_examples=300)
@given(policies, st.lists(checkpoints(), max_size=8), st.lists(rounds, min_size=1, max_size=25))
def test_it_removes_what_the_plan_removes_whatever_happened_before(
    policy: RetentionPolicy | None, before: list[Checkpoint], history: list[Round]
) -> None:
    standing = Standing(policy, None)
    listed = [replace(c, seq=seq) for seq, c in enumerate(before, 1)]
    for checkpoint in listed:
        standing.add(checkpoint)
    for seq, turn in enumerate(history, len(before) + 1):
        newest, told = replace(turn.newest, seq=seq), turn.told(listed)
        found = standing.removed(newest, turn.monitor, told)
        assert found == plan(policy, listed, newest=newest, monitor=turn.monitor, told=told).removed
        if not turn.is_durable:
            continue
        standing.add(newest)
        listed.append(newest)
        gone = {r.seq for r in found} | {listed[-place].seq for place in turn.dropped if 0 < place <= len(listed)}
        for checkpoint in [c for c in listed if c.seq in gone]:
            standing.remove(checkpoint)
            listed.remove(checkpoint)


@given(st.lists(st.tuples(checkpoints(), st.frozensets(st.integers(1, 12), max_size=4), st.booleans()), max_size=25))
def test_the_best_is_the_one_that_readers_find(history: list[tuple[Checkpoint, frozenset[int], bool]]) -> None:
    contest = Contest()
    listed: list[Checkpoint] = []
    for seq, (entry, places, is_durable) in enumerate(history, 1):
        newest = replace(entry, seq=seq)
        gone = {listed[-place].seq for place in places if place <= len(listed)}
        assert contest.monitor == monitor_of(listed)
        assert contest.best() is best_of(listed, monitor_of(listed))
        left = [c for c in listed if c.seq not in gone]
        assert contest.best(gone) is best_of(left, monitor_of(left))
        new = [*left, newest]
        assert contest.best(gone, newest) is best_of(new, monitor_of(new))
        if is_durable:
            contest.add(newest)
            for checkpoint in listed:
                if checkpoint.seq in gone:
                    contest.remove(checkpoint)
            listed = new


@given(st.lists(st.frozensets(st.integers(1, 5)), max_size=12), st.randoms())
def test_the_bytes_of_all_packs_are_counted_once_whoever_comes_and_goes(
    names: list[frozenset[int]], random: Any
) -> None:
    uses, listed = Uses(), list[Checkpoint]()
    ref = ObjectRef("data/0/manifest.json", 1, "")
    for seq, lengths in enumerate(names):
        packs = tuple(PackUse(f"pack-{length}", length, 0) for length in sorted(lengths))
        listed.append(Checkpoint(seq, 1, None, 1, None, 0, {}, ref, packs))
        uses.add(listed[-1])
        if random.random() < 0.5:
            uses.remove(listed.pop(random.randrange(len(listed))))
        needed = {pack.key: pack.length for checkpoint in listed for pack in checkpoint.packs}
        assert uses.nbytes == sum(needed.values())
        assert {key for key in (f"pack-{length}" for length in range(7)) if key in uses} == needed.keys()
