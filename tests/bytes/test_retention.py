"""Retention: pure decisions with reasons; some checkpoints no rule can remove."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt.format.record import Checkpoint, ObjectRef
from asyncckpt.retention import RetentionPolicy, best_of, plan


def checkpoint(seq: int, step: int | None = None, **metrics: float) -> Checkpoint:
    ref = ObjectRef(f"data/{seq}/manifest.json", 1, "")
    return Checkpoint(seq, seq * 10 if step is None else step, None, 1, None, 0, metrics, ref, ())


def dropped(policy: RetentionPolicy | None, seqs: list[int], newest: Checkpoint, **options: object) -> list[int]:
    return [r.seq for r in plan(policy, map(checkpoint, seqs), newest=newest, **options)]


def test_no_policy_keeps_everything() -> None:
    assert dropped(None, [1, 2, 3], checkpoint(4)) == []
    assert dropped(RetentionPolicy(), [1, 2, 3], checkpoint(4)) == []


def test_the_last_n_stay_counting_the_one_just_saved() -> None:
    removals = plan(RetentionPolicy(last=2), map(checkpoint, [1, 2, 3]), newest=checkpoint(4))
    assert [(r.seq, r.step, r.reason) for r in removals] == [
        (1, 10, "not among the last 2"),
        (2, 20, "not among the last 2"),
    ]


def test_recency_is_the_sequence_number_so_a_lower_step_after_a_rollback_stays() -> None:
    assert dropped(RetentionPolicy(last=1), [7, 8], checkpoint(9, step=1)) == [7, 8]


def test_a_later_save_of_a_step_replaces_the_earlier_under_every_policy() -> None:
    removals = plan(None, [checkpoint(1, step=5), checkpoint(2, step=6)], newest=checkpoint(3, step=5))
    assert [(r.seq, r.reason) for r in removals] == [(1, "replaced by a later save of its step")]


def test_a_replaced_one_does_not_take_a_place_among_the_last() -> None:
    live = [checkpoint(1, step=1), checkpoint(2, step=2)]
    assert [r.seq for r in plan(RetentionPolicy(last=2), live, newest=checkpoint(3, step=2))] == [2]


def test_what_is_being_read_stays() -> None:
    assert dropped(RetentionPolicy(last=1), [1, 2], checkpoint(3), protected={1}) == [2]


def test_damaged_ones_stay_and_count_in_no_rule() -> None:
    assert dropped(RetentionPolicy(last=2), [1, 2, 3], checkpoint(4), damaged={3}) == [1]


@given(st.sets(st.integers(1, 30)), st.integers(1, 10), st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_keeping_more_never_removes_more(seqs: set[int], last: int, protected: set[int], damaged: set[int]) -> None:
    newest = checkpoint(31)
    options = {"protected": protected, "damaged": damaged}
    strict = set(dropped(RetentionPolicy(last=last), sorted(seqs), newest, **options))
    loose = set(dropped(RetentionPolicy(last=last + 1), sorted(seqs), newest, **options))
    assert loose <= strict <= seqs
    assert not strict & (protected | damaged | {31})
    assert len(seqs - strict - protected - damaged) <= last - 1


@pytest.mark.parametrize("option", ["best", "every_steps", "every_epochs"])
def test_rules_without_effect_yet_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}="):
        RetentionPolicy(**{option: 1})


@pytest.mark.parametrize("last", [0, -1])
def test_keeping_nothing_is_refused(last: int) -> None:
    with pytest.raises(ValueError, match="would keep nothing"):
        RetentionPolicy(last=last)


def test_nan_is_never_best_and_a_tie_keeps_the_older() -> None:
    found = [checkpoint(1, loss=math.nan), checkpoint(2, loss=0.5), checkpoint(3, loss=0.5), checkpoint(4)]
    assert best_of(found, ("loss", "min")) is found[1]
    assert best_of(found, ("loss", "max")) is found[1]
    assert best_of(found, ("accuracy", "max")) is None
    assert best_of(found[:1], ("loss", "min")) is None
    assert best_of(found, None) is None


def test_infinity_is_a_value() -> None:
    found = [checkpoint(1, loss=math.inf), checkpoint(2, loss=-math.inf)]
    assert best_of(found, ("loss", "min")) is found[1]
    assert best_of(found, ("loss", "max")) is found[0]
