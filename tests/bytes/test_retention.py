"""Retention: pure plans with reasons; the union of the rules stays, and some checkpoints no rule can remove."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt.format.record import RULES, Checkpoint, ObjectRef, PackUse, Removal
from asyncckpt.retention import REPLACED, Monitor, PrunePlan, RetentionPolicy, Told, best_of, plan, ranking

LOSS: Monitor = ("loss", "min")
START = datetime(2026, 1, 1, tzinfo=UTC)


def checkpoint(seq: int, step: int | None = None, epoch: int | None = None, **metrics: float) -> Checkpoint:
    ref = ObjectRef(f"data/{seq}/manifest.json", 1, "")
    return Checkpoint(seq, seq * 10 if step is None else step, epoch, 1, None, 0, metrics, ref, ())


def saved_at(seq: int, when: datetime) -> Checkpoint:
    return replace(checkpoint(seq), created=int(when.timestamp() * 1e6))


def removed(found: PrunePlan) -> list[int]:
    return [removal.seq for removal in found.removed]


def kept(found: PrunePlan) -> dict[int, tuple[str, ...]]:
    return {entry.seq: entry.reasons for entry in found.kept}


def dropped(policy: RetentionPolicy | None, seqs: list[int], newest: Checkpoint, **options: Any) -> list[int]:
    return removed(plan(policy, map(checkpoint, seqs), newest=newest, told=Told(**options)))


# -- the rules -------------------------------------------------------------------------------------------------


def test_no_policy_and_one_without_a_rule_keep_everything() -> None:
    assert dropped(None, [1, 2, 3], checkpoint(4)) == []
    assert dropped(RetentionPolicy(), [1, 2, 3], checkpoint(4)) == []
    assert kept(plan(None, [checkpoint(1)], newest=checkpoint(2))) == {
        1: ("everything is kept",),
        2: ("just saved", "everything is kept"),
    }


def test_the_last_n_stay_counting_the_one_just_saved() -> None:
    found = plan(RetentionPolicy(last=2), map(checkpoint, [1, 2, 3]), newest=checkpoint(4))
    assert found.removed == (
        Removal(1, 10, "no rule keeps it: last 2", "policy"),
        Removal(2, 20, "no rule keeps it: last 2", "policy"),
    )
    assert kept(found) == {3: ("last 2",), 4: ("just saved", "last 2")}


def test_recency_is_the_sequence_number_so_a_lower_step_after_a_rollback_stays() -> None:
    assert dropped(RetentionPolicy(last=1), [7, 8], checkpoint(9, step=1)) == [7, 8]


def test_the_n_best_of_all_stay_not_only_those_that_were_the_best_once() -> None:
    losses = [0.1, 0.9, 0.15, 0.8, 0.2, 0.7]
    found = plan(
        RetentionPolicy(best=3),
        [checkpoint(seq, loss=loss) for seq, loss in enumerate(losses, 1)],
        newest=checkpoint(7, loss=0.95),
        monitor=LOSS,
    )
    assert kept(found) == {
        1: ("best loss, 0.1", "best 3"),
        3: ("best 3",),
        5: ("best 3",),
        7: ("just saved",),
    }


def test_more_is_better_where_the_monitor_says_so() -> None:
    scores = [checkpoint(seq, score=score) for seq, score in ((1, 0.5), (2, 0.9), (3, 0.7))]
    assert removed(plan(RetentionPolicy(best=2), scores, newest=checkpoint(4), monitor=("score", "max"))) == [1]


def test_nan_and_what_has_no_metric_never_count_as_best() -> None:
    found = [checkpoint(1, loss=math.nan), checkpoint(2), checkpoint(3, loss=math.inf), checkpoint(4, loss=1)]
    assert [c.seq for c in ranking(found, LOSS)] == [4, 3]
    assert removed(plan(RetentionPolicy(best=4), found, newest=checkpoint(5), monitor=LOSS)) == [1, 2]


@pytest.mark.parametrize("monitor", [("loss", "min"), ("loss", "max")])
def test_of_equals_the_older_is_better(monitor: Monitor) -> None:
    found = [checkpoint(seq, loss=0.5) for seq in (1, 2, 3)]
    assert [c.seq for c in ranking(reversed(found), monitor)] == [1, 2, 3]
    assert removed(plan(RetentionPolicy(best=1), found, newest=checkpoint(4), monitor=monitor)) == [2, 3]


def test_the_best_one_stays_whatever_the_rules_are() -> None:
    live = [checkpoint(1, loss=0.1)]
    for seq in range(2, 22):
        newest = checkpoint(seq, loss=1.0)
        found = plan(RetentionPolicy(last=2), live, newest=newest, monitor=LOSS)
        live = [c for c in (*live, newest) if c.seq not in removed(found)]
    assert [c.seq for c in live] == [1, 20, 21]


def test_steps_that_are_multiples_stay() -> None:
    live = [checkpoint(seq, step=step) for seq, step in enumerate((500, 1000, 1500, 2000), 1)]
    found = plan(RetentionPolicy(every_steps=1000), live, newest=checkpoint(5, step=2500))
    assert kept(found) == {2: ("every 1000 steps",), 4: ("every 1000 steps",), 5: ("just saved",)}


def test_the_last_checkpoint_of_an_epoch_that_is_a_multiple_stays() -> None:
    live = [checkpoint(1, epoch=0), checkpoint(2, epoch=10), checkpoint(3, epoch=10), checkpoint(4, epoch=11)]
    found = plan(RetentionPolicy(every_epochs=10), live, newest=checkpoint(5))
    assert kept(found) == {3: ("every 10 epochs, epoch 10",), 5: ("just saved",)}


def test_fifty_epochs_with_last_5_best_3_and_every_10() -> None:
    """The example that seed C documents: at most 13 of 50 stay."""
    losses = [1 / epoch + (0.5 if epoch % 7 else 0) for epoch in range(1, 51)]
    policy = RetentionPolicy(last=5, best=3, every_epochs=10)
    live: list[Checkpoint] = []
    for epoch, loss in enumerate(losses, 1):
        newest = checkpoint(epoch, step=epoch * 100, epoch=epoch, loss=loss)
        found = plan(policy, live, newest=newest, monitor=LOSS)
        live = [c for c in (*live, newest) if c.seq not in removed(found)]
    best = {49, 42, 35}
    assert {c.epoch for c in live} == {46, 47, 48, 49, 50} | best | {10, 20, 30, 40, 50}
    assert len(live) <= 13


@pytest.mark.parametrize(
    ("rule", "apart", "named"),
    [
        ("hourly", timedelta(minutes=20), "2026-01-01 03:00"),
        ("daily", timedelta(hours=8), "2026-01-04"),
        ("weekly", timedelta(days=3), "2026 week 05"),
        ("monthly", timedelta(days=10), "2026-04"),
        ("yearly", timedelta(days=120), "2029"),
    ],
)
def test_the_last_one_of_each_recent_bucket_stays(rule: str, apart: timedelta, named: str) -> None:
    live = [saved_at(seq, START + seq * apart) for seq in range(10)]
    newest = saved_at(10, START + 10 * apart)
    found = plan(RetentionPolicy(**{rule: 2}), live, newest=newest)
    assert len(found.kept) == 2
    assert found.kept[-1].reasons == ("just saved", f"{rule} 2, {named}")
    assert found.kept[0].seq == max(c.seq for c in live if _bucket(c, rule) != _bucket(newest, rule))


def _bucket(found: Checkpoint, rule: str) -> object:
    when = datetime.fromtimestamp(found.created / 1e6, UTC)
    of_rule = {
        "hourly": (when.date(), when.hour),
        "daily": when.date(),
        "weekly": when.isocalendar()[:2],
        "monthly": (when.year, when.month),
        "yearly": when.year,
    }
    return of_rule[rule]


def test_hours_in_which_nothing_was_saved_count_for_nothing() -> None:
    live = [saved_at(seq, START + timedelta(hours=hour)) for seq, hour in ((1, 0), (2, 100), (3, 900))]
    found = plan(RetentionPolicy(hourly=3), live, newest=saved_at(4, START + timedelta(hours=901)))
    assert removed(found) == [1]


# -- what no rule can remove -----------------------------------------------------------------------------------


def test_a_later_save_of_a_step_replaces_the_earlier_under_every_policy() -> None:
    found = plan(None, [checkpoint(1, step=5), checkpoint(2, step=6)], newest=checkpoint(3, step=5))
    assert [(r.seq, r.reason, r.rule) for r in found.removed] == [(1, REPLACED, "replaced")]


def test_a_replaced_one_does_not_take_a_place_among_the_last() -> None:
    live = [checkpoint(1, step=1), checkpoint(2, step=2)]
    assert removed(plan(RetentionPolicy(last=2), live, newest=checkpoint(3, step=2))) == [2]


def test_what_is_being_read_stays() -> None:
    assert dropped(RetentionPolicy(last=1), [1, 2], checkpoint(3), reading={1}) == [2]


def test_damaged_ones_stay_and_count_in_no_rule() -> None:
    assert dropped(RetentionPolicy(last=2), [1, 2, 3], checkpoint(4), damaged={3}) == [1]


def test_P9_never_the_newest_the_best_a_pinned_one_or_one_being_read() -> None:
    live = [checkpoint(1, loss=0.1), *(checkpoint(seq, loss=0.5) for seq in range(2, 9))]
    told = Told(reading={3}, damaged={4}, marks={2: ["pinned"], 5: ["tag paper", "tag v1"]})
    found = plan(RetentionPolicy(last=1), live, newest=checkpoint(9, loss=0.9), monitor=LOSS, told=told)
    assert kept(found) == {
        1: ("best loss, 0.1",),
        2: ("pinned",),
        3: ("being read",),
        4: ("damaged",),
        5: ("tag paper", "tag v1"),
        9: ("just saved", "last 1"),
    }


def test_a_pinned_one_stays_even_where_its_step_is_saved_again() -> None:
    found = plan(None, [checkpoint(1, step=5)], newest=checkpoint(2, step=5), told=Told(marks={1: ["pinned"]}))
    assert removed(found) == []


def test_without_a_save_the_latest_stays() -> None:
    found = plan(RetentionPolicy(every_steps=1000), [checkpoint(1), checkpoint(2)], told=Told(latest=1))
    assert (kept(found), removed(found)) == ({1: ("latest",)}, [2])


def test_what_is_unwanted_goes_whatever_the_rules_and_takes_no_place_unless_something_stronger_keeps_it() -> None:
    unwanted = dict.fromkeys((1, 2, 3, 4, 5, 9), "asked for by me")
    told = Told(reading={2}, damaged={3, 6}, marks={4: ["pinned"]}, unwanted=unwanted)
    found = plan(RetentionPolicy(last=3), map(checkpoint, range(1, 9)), newest=checkpoint(9), told=told)
    assert [(r.seq, r.reason, r.rule) for r in found.removed] == [
        (seq, "asked for by me", "overwritten") for seq in (1, 3, 5)
    ]
    assert kept(found)[7] == ("last 3",)


def test_p9_the_best_and_what_is_damaged_are_stronger_than_a_request_and_weaker_than_a_new_training() -> None:
    live = [checkpoint(1, loss=0.1), checkpoint(2, loss=0.5), checkpoint(3, loss=0.9)]
    both = dict.fromkeys((1, 2), "asked for by me")
    (asked,) = plan(None, live, newest=checkpoint(4), monitor=LOSS, told=Told(asked=both)).removed
    assert asked == Removal(2, 20, "asked for by me", "asked")
    assert removed(plan(None, live, newest=checkpoint(4), monitor=LOSS, told=Told(unwanted=both))) == [1, 2]
    assert removed(plan(None, live, newest=checkpoint(4), told=Told(damaged={1}, asked=both))) == [2]
    assert removed(plan(None, live, newest=checkpoint(4), told=Told(damaged={1}, unwanted=both))) == [1, 2]
    known = Told(damaged={1, 3}, asked=both, given_up={1, 3})
    assert removed(plan(None, live, newest=checkpoint(4), told=known)) == [1, 2], "3 was not asked to go"
    # What is given up altogether takes no part in the contest either.
    assert removed(plan(None, live, monitor=LOSS, told=Told(unwanted={1: "x"}, asked={2: "y", 3: "z"}))) == [1, 3]


@pytest.mark.parametrize(("loss", "gone"), [(0.4, [1]), (0.5, [1]), (0.6, []), (math.nan, []), (None, [])])
@pytest.mark.parametrize("policy", [None, RetentionPolicy(last=5)])
def test_p9_the_best_is_replaced_by_a_save_of_its_step_that_is_as_good_and_by_no_other(
    policy: RetentionPolicy | None, loss: float | None, gone: list[int]
) -> None:
    """``save(steps)`` at the end of a training, without metrics, must not cost the best checkpoint."""
    live = [checkpoint(1, step=5, loss=0.5), checkpoint(2, step=6, loss=0.7)]
    newest = checkpoint(3, step=5, **({} if loss is None else {"loss": loss}))
    assert removed(plan(policy, live, newest=newest, monitor=LOSS)) == gone


def test_one_that_is_not_the_best_is_replaced_by_a_worse_one() -> None:
    live = [checkpoint(1, step=5, loss=0.5), checkpoint(2, step=6, loss=0.4)]
    assert removed(plan(None, live, newest=checkpoint(3, step=5, loss=0.9), monitor=LOSS)) == [1]


def test_without_a_save_what_the_training_goes_on_from_stays_too() -> None:
    """The latest is damaged, and a resume fell back past it: nothing else sound may be left."""
    told = Told(latest=3, parent=2, damaged={3})
    found = plan(RetentionPolicy(every_steps=1000), map(checkpoint, (1, 2, 3)), told=told)
    assert (kept(found)[2], removed(found)) == (("the training goes on from it",), [1])
    assert removed(plan(RetentionPolicy(last=1), [checkpoint(2)], newest=checkpoint(3), told=told)) == []
    assert removed(plan(RetentionPolicy(last=1), [checkpoint(2)], newest=checkpoint(4), told=told)) == [2]


@pytest.mark.parametrize("created", [-(10**21), 10**21])
@pytest.mark.parametrize("rule", ["hourly", "daily", "weekly", "monthly", "yearly"])
def test_a_clock_that_has_gone_mad_fails_no_save(rule: str, created: int) -> None:
    mad = replace(checkpoint(1), created=created)
    assert 2 in kept(plan(RetentionPolicy(**{rule: 1}), [mad], newest=saved_at(2, START)))


@pytest.mark.parametrize("number", [2.5, True, "3"])
def test_what_is_no_whole_number_is_refused(number: Any) -> None:
    with pytest.raises(TypeError, match="whole number"):
        RetentionPolicy(last=number)


def test_what_is_marked_or_read_and_not_listed_is_nothing() -> None:
    told = Told(reading={8}, damaged={9}, marks={7: ["pinned"]})
    assert kept(plan(None, [checkpoint(1)], told=told)) == {1: ("everything is kept",)}
    assert plan(RetentionPolicy(last=1), []) == PrunePlan((), (), 0)


def test_the_bytes_that_are_freed_are_those_of_packs_nobody_uses_any_more() -> None:
    shared, one, two = PackUse("a", 100, 90), PackUse("b", 30, 20), PackUse("c", 7, 7)
    live = [
        replace(checkpoint(1), packs=(shared, one)),
        replace(checkpoint(2), packs=(one, two)),
    ]
    assert plan(RetentionPolicy(last=1), live, newest=replace(checkpoint(3), packs=(shared,))).freed == 37
    assert plan(None, live, newest=checkpoint(3)).freed == 0


# -- properties ------------------------------------------------------------------------------------------------

numbers = st.none() | st.integers(1, 5)
policies = st.builds(
    RetentionPolicy,
    last=numbers,
    best=numbers,
    every_steps=numbers,
    every_epochs=numbers,
    hourly=numbers,
    daily=numbers,
)


@st.composite
def runs(draw: st.DrawFn) -> list[Checkpoint]:
    """Checkpoints as they come: rising numbers, and anything else."""
    found = []
    for seq in sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=20))):
        loss = draw(st.none() | st.sampled_from([0.0, 0.5, 1.0, math.nan, math.inf]))
        entry = checkpoint(
            seq,
            step=draw(st.integers(0, 12)),
            epoch=draw(st.none() | st.integers(0, 6)),
            **({} if loss is None else {"loss": loss}),
        )
        found.append(replace(entry, created=draw(st.integers(0, 100)) * 1_800_000_000))
    return found


tellings = st.builds(
    Told,
    reading=st.sets(st.integers(1, 40), max_size=3),
    damaged=st.sets(st.integers(1, 40), max_size=3),
    marks=st.dictionaries(st.integers(1, 40), st.just(["pinned"]), max_size=3),
    asked=st.dictionaries(st.integers(1, 40), st.just("asked for by me"), max_size=9),
    given_up=st.sets(st.integers(1, 40), max_size=3),
)


@given(runs(), policies, tellings)
def test_every_checkpoint_is_either_kept_with_a_reason_or_removed_with_one(
    found: list[Checkpoint], policy: RetentionPolicy, told: Told
) -> None:
    *live, newest = found
    planned = plan(policy, live, newest=newest, monitor=LOSS, told=told)
    assert sorted([*kept(planned), *removed(planned)]) == [c.seq for c in found]
    assert all(entry.reasons for entry in planned.kept)
    assert all(removal.reason and removal.rule in RULES for removal in planned.removed)
    evidence = {seq for seq in told.damaged if not (seq in told.asked and seq in told.given_up)}
    safe = {newest.seq, *told.reading, *evidence, *told.marks}
    assert not safe & set(removed(planned))
    best = best_of([c for c in found if c.seq not in told.damaged], LOSS)
    if best is not None and best.seq in removed(planned):
        assert (best.step, best.metrics["loss"]) == (newest.step, newest.metrics["loss"]), "it lives on in the newest"


@given(runs(), policies, tellings, st.randoms())
def test_the_order_in_which_they_are_given_does_not_matter(
    found: list[Checkpoint], policy: RetentionPolicy, told: Told, random: Any
) -> None:
    *live, newest = found
    planned = plan(policy, live, newest=newest, monitor=LOSS, told=told)
    random.shuffle(live)
    assert plan(policy, live, newest=newest, monitor=LOSS, told=told) == planned


@given(runs(), policies, policies)
def test_the_union_of_two_policies_keeps_what_either_keeps(
    found: list[Checkpoint], one: RetentionPolicy, other: RetentionPolicy
) -> None:
    *live, newest = found
    both = RetentionPolicy(**{**dict(other.rules()), **dict(one.rules())})
    if set(dict(one.rules())) & set(dict(other.rules())) or not dict(one.rules()) or not dict(other.rules()):
        return
    keeps = [set(kept(plan(policy, live, newest=newest, monitor=LOSS))) for policy in (one, other, both)]
    assert keeps[0] | keeps[1] == keeps[2]


@given(runs(), policies, tellings)
def test_a_plan_carried_out_leaves_nothing_to_remove(
    found: list[Checkpoint], policy: RetentionPolicy, told: Told
) -> None:
    *live, newest = found
    gone = removed(plan(policy, live, newest=newest, monitor=LOSS, told=told))
    left = [c for c in found if c.seq not in gone]
    assert removed(plan(policy, left[:-1], newest=left[-1], monitor=LOSS, told=told)) == []


# -- refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("rule", ["last", "best", "hourly", "daily", "weekly", "monthly", "yearly"])
def test_keeping_nothing_is_refused(rule: str, number: int) -> None:
    with pytest.raises(ValueError, match=rf"RetentionPolicy\({rule}={number}\) would keep nothing"):
        RetentionPolicy(**{rule: number})


@pytest.mark.parametrize("rule", ["every_steps", "every_epochs"])
def test_multiples_of_nothing_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=rf"RetentionPolicy\({rule}=0\) means nothing"):
        RetentionPolicy(**{rule: 0})


# -- the best --------------------------------------------------------------------------------------------------


def test_nan_never_wins_and_without_a_metric_there_is_no_best() -> None:
    found = [checkpoint(1, loss=math.nan), checkpoint(2, loss=0.5), checkpoint(3, accuracy=math.nan)]
    assert best_of(found, ("loss", "min")) is found[1]
    assert best_of(found, ("loss", "max")) is found[1]
    assert best_of(found, ("accuracy", "max")) is None
    assert best_of(found, None) is None


# -- many of them ----------------------------------------------------------------------------------------------


def test_many_are_decided_upon_in_a_time_that_grows_with_their_number_and_no_faster() -> None:
    """Counted in comparisons, not in seconds: a loop within a loop would make tens of millions."""

    class Counted(int):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return int(self) == other

        def __hash__(self) -> int:
            return int(self)

        def __lt__(self, other: int) -> bool:
            Counted.compared += 1
            return int(self) < other

    live = [
        replace(saved_at(0, START + timedelta(hours=n)), seq=Counted(n), step=n, epoch=n // 10, metrics={"loss": 1 / n})
        for n in range(1, 10_001)
    ]
    policy = RetentionPolicy(last=2000, best=2000, every_steps=4, every_epochs=3, hourly=100, daily=100)
    found = plan(policy, live, newest=checkpoint(10_001), monitor=LOSS, told=Told(asked={5: "x"}, damaged={7}))
    assert len(found.kept) + len(found.removed) == 10_001
    assert len(found.removed) > 2000
    assert Counted.compared < 1_000_000
