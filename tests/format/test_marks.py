"""Marks: keys that say everything, and names that can be tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.marks import Drop, Mark, by_seq, check_tag, decode_drop, drop_key, encode, is_drop, mark_of
from asyncckpt.format.sealed import seal
from asyncckpt.storage.base import check_key


def is_tag(name: str) -> bool:
    try:
        return check_tag(name) == name
    except ValueError:
        return False


@given(st.integers(1, 10**12), st.none() | st.text(min_size=1, max_size=60).filter(is_tag))
def test_a_mark_is_its_key(seq: int, tag: str | None) -> None:
    mark = Mark(seq, tag)
    assert mark_of(check_key(mark.key)) == mark


@pytest.mark.parametrize("tag", ["paper", "v1.0", "a/b", "größe", "x" * 60, "with space", "1e3"])
def test_what_can_be_a_tag(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag",
    ["", "latest", "best", "12", "00000042", "x" * 61, "ü" * 31, " a", "a\n", "a@b", "\x00", "\ud800"],
)
def test_what_would_mean_something_else_or_nothing_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="cannot be a tag"):
        check_tag(tag)


@pytest.mark.parametrize(
    "key",
    [
        "user/1-pin.json",
        "user/00000001-pin.json.tmp",
        "user/00000001-tag-.json",
        "user/00000001-tag-zz.json",
        "user/00000001-tag-ff.json",
        "user/00000001-tag-abc.json",
        "data/00000001-pin.json",
        "user/drop-12.json",
        "user/000000001-pin.json",
    ],
)
def test_other_keys_are_no_marks_and_no_requests(key: str) -> None:
    assert mark_of(key) is None
    assert not is_drop(key)


def test_a_request_says_who_asks_and_for_what() -> None:
    assert is_drop(check_key(drop_key()))
    assert drop_key() != drop_key()
    assert decode_drop(encode("me@here", 1, {3, 1}), "it") == Drop("me@here", frozenset({1, 3}), frozenset())
    assert decode_drop(encode("me", 1, {3, 1}, {3, 4}), "it").damaged == {3}, "only of what is to go"
    assert decode_drop(seal({"author": "me", "created": 1, "drop": [1]}), "it").damaged == frozenset()
    with pytest.raises(CheckpointCorruptError, match="it is damaged"):
        decode_drop(encode("me", 1, [1])[:-3] + b"}  ", "it")


def test_marks_of_one_checkpoint_stand_together_pins_first() -> None:
    found = [Mark(2, "b"), Mark(1, "a"), Mark(2), Mark(2, "a")]
    assert by_seq([*(mark.key for mark in found), "user/else"]) == {
        1: (Mark(1, "a"),),
        2: (Mark(2), Mark(2, "a"), Mark(2, "b")),
    }
    assert [str(mark) for mark in (Mark(1), Mark(1, "a"))] == ["pinned", "tag a"]
