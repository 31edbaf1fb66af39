"""Records: lossless, small, and exact about what is live."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.record import Checkpoint, ObjectRef, PackUse, Record, Removal, WriterId, decode
from asyncckpt.format.sealed import seal, unseal
from asyncckpt.format.slots import Slots

WRITER = WriterId("f" * 32, "host", 123, 1_700_000_000_000_000)
CHECKPOINT = Checkpoint(
    seq=42,
    step=1000,
    epoch=3,
    world=2,
    parent=41,
    created=1_700_000_000_000_001,
    metrics={"loss": 0.1, "nan": math.nan, "inf": -math.inf, "zero": -0.0},
    manifest=ObjectRef("data/x/manifest.json", 100, "a" * 32),
    packs=(PackUse("data/x/p0", 5000, 900), PackUse("data/w/p0", 6000, 100)),
    code_version="12345678",
    monitor=("loss", "min"),
)


def record(**changes: object) -> Record:
    fields: dict = {
        "kind": "checkpoint",
        "slot": 50,
        "inc": 7,
        "writer": WRITER,
        "previous": (49, "b" * 32),
        "live": Slots.of({3, 4, 5, 9, 50}),
        "latest": 42,
        "latest_inc": 7,
        "next_seq": 43,
        "checkpoint": CHECKPOINT,
        "removed": (Removal(40, 960, "no rule keeps it: last 4", "policy"),),
    }
    return Record(**{**fields, **changes})


def test_a_record_comes_back_with_its_digest() -> None:
    data = record().encode()
    found = decode(data, "it")
    assert found.digest
    assert {**found.checkpoint.metrics, "nan": 0} == {**CHECKPOINT.metrics, "nan": 0}
    assert math.isnan(found.checkpoint.metrics["nan"])
    assert math.copysign(1, found.checkpoint.metrics["zero"]) == -1
    assert found.encode() == data


@pytest.mark.parametrize("kind", ["open", "rollback", "close"])
def test_other_kinds_hold_no_checkpoint(kind: str) -> None:
    found = decode(record(kind=kind, checkpoint=None, previous=None, latest=None).encode(), "it")
    assert (found.kind, found.checkpoint, found.previous, found.latest) == (kind, None, None, None)


@given(st.frozensets(st.integers(1, 300)))
def test_live_slots_survive_as_ranges(live: frozenset[int]) -> None:
    found = decode(record(live=Slots.of(live)).encode(), "it").live
    assert found == Slots.of(live)
    assert (list(found), len(found)) == (sorted(live), len(live))
    assert {slot for slot in range(-1, 302) if slot in found} == live
    assert "3" not in found
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(found.ranges))


@given(st.frozensets(st.integers(1, 60)), st.frozensets(st.integers(0, 70)), st.integers(1, 3))
def test_slots_that_come_and_go_are_those_that_are_left(
    slots: frozenset[int], gone: frozenset[int], above: int
) -> None:
    assert Slots.of(slots).without(gone) == Slots.of(slots - gone)
    new = max(slots, default=0) + above
    assert Slots.of(slots).followed_by(new) == Slots.of(slots | {new})


def test_ten_thousand_live_checkpoints_stay_a_small_record() -> None:
    assert len(record(live=Slots.of(range(1, 10_001))).encode()) < 2000


def test_a_size_counts_what_its_packs_hold_for_it() -> None:
    assert CHECKPOINT.size == 1000


@pytest.mark.parametrize("change", [{"kind": "other"}, {"live": 5}, {"writer": {}}, {"slot": "x"}])
def test_sealed_json_that_is_no_record_is_damage(change: dict) -> None:
    fields = {k: v for k, v in unseal(record().encode(), "it").items() if k != "format"}
    with pytest.raises(CheckpointCorruptError, match="it lacks or misuses a field"):
        decode(seal({**fields, **change}), "it")


def test_unknown_fields_of_a_later_version_are_ignored() -> None:
    fields = {k: v for k, v in unseal(record().encode(), "it").items() if k != "format"}
    assert decode(seal({**fields, "later": [1]}), "it").slot == 50
