"""Names: what is written can be read back, and nothing else is taken for ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt.format.names import DataDirectory, directory_of, is_pack, record_key, slot_of
from asyncckpt.storage.base import check_key

BIG = st.integers(0, 10**12)


@given(BIG)
def test_a_slot_is_read_back_from_its_key(slot: int) -> None:
    assert slot_of(check_key(record_key(slot))) == slot


@given(BIG, BIG, BIG, st.integers(0, 2**32 - 1).map(lambda n: f"{n:08x}"))
def test_an_attempt_is_read_back_from_the_key_of_anything_in_it(seq: int, step: int, inc: int, nonce: str) -> None:
    directory = DataDirectory(seq, step, inc, nonce)
    for key in (directory.pack(3, 8, 1), directory.report(7, 8), directory.manifest):
        assert directory_of(check_key(key)) == directory


def test_the_layout_is_the_documented_one() -> None:
    directory = DataDirectory(42, 1000, 3, "5f2c9a01")
    assert record_key(42) == "commits/0000000042.json"
    assert directory.key == "data/00000042-step-1000-i3-5f2c9a01"
    assert directory.pack(0, 8, 0) == directory.key + "/rank-00000-of-00008.p0.safetensors"
    assert directory.report(0, 8) == directory.key + "/rank-00000-of-00008.json"
    assert all(is_pack(directory.pack(0, 8, 0, suffix)) for suffix in ("", ".zst", ".enc", ".zst.enc"))
    assert not any(map(is_pack, (directory.report(0, 8), directory.manifest, record_key(42))))


@pytest.mark.parametrize(
    "key", ["commits/latest", "commits/42.json", "commits/0000000042.json.tmp", "data/0000000042.json"]
)
def test_foreign_names_are_no_slots(key: str) -> None:
    assert slot_of(key) is None


@pytest.mark.parametrize("key", ["data/notes.txt", "data/x/y", "data/00000042-step-1000-i3-5f2c9a0/manifest.json"])
def test_foreign_names_are_no_attempts(key: str) -> None:
    assert directory_of(key) is None
