"""Values of a manifest as short text."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from asyncckpt.format.tagged import SHARED
from asyncckpt.inspection.values import LONGEST, values
from asyncckpt.restores import restoring
from asyncckpt.state.values import encode

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Config:
    rate: float
    layers: list[Any]


class Mode(Enum):
    TRAIN = "train"


def shown(value: object) -> dict[str, str]:
    """Names and texts of what is shown of a state that is the one component ``v``."""
    data = encode({"v": value}, (), lambda path, tensor: None)
    found = list(values({SHARED: data}))
    assert len({v.name for v in found}) == len(found)
    return {v.name: v.text for v in found}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (2**60, "0x1000000000000000"),
        (0.1, "0.1"),
        (float("-inf"), "-inf"),
        ("text", "'text'"),
        ("a\nb", r"'a\nb'"),
        (b"\x00\xff", "bytes(AP8=)"),
        (1 + 2j, "complex(1.0, 2.0)"),
        (date(2026, 1, 2), "date(2026-01-02)"),
        (PurePosixPath("a/b"), "path(PurePosixPath, a/b)"),
        (torch.float16, "dtype(float16)"),
        (torch.device("cpu"), "device(cpu)"),
        (torch.Size([2, 3]), "(2, 3)"),
        ([], "[]"),
        ((), "()"),
        ({}, "{}"),
        ([1, 0.5, "x"], "[1, 0.5, 'x']"),
        ((1, None), "(1, None)"),
        ({1}, "{1}"),
        (deque([1, 2], maxlen=5), "[1, 2]"),
        (list(range(7)), "[0, 1, 2, 3, 4, 5, ... 7 in all]"),
        (list(range(6)), "[0, 1, 2, 3, 4, 5]"),
        (np.array(["a"]), "array(<U1, [1], YQAAAA==)"),
    ],
)
def test_a_value_without_parts_is_one_short_text(value: object, text: str) -> None:
    assert shown(value) == {"v": text}


def test_an_enum_member_is_shown_by_its_name() -> None:
    assert shown(Mode.TRAIN)["v"].endswith("Mode, TRAIN)")


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ({"a": 1, "b": {"c": 2}}, {"v.a": "1", "v.b.c": "2"}),
        ({1: "x", (1, 2): "z"}, {"v.1": "'x'", 'v.{"$tuple":[1,2]}': "'z'"}),
        ([[1], {"a": 2}], {"v.0": "[1]", "v.1.a": "2"}),
        ((1, (2, 3)), {"v.0": "1", "v.1": "(2, 3)"}),
        (OrderedDict(b=1, a=2), {"v.b": "1", "v.a": "2"}),
        (defaultdict(list, a=[1]), {"v.a": "[1]"}),
        (Counter(a=2), {"v.a": "2"}),
        (Point(1, (2, 3)), {"v.0": "1", "v.1": "(2, 3)"}),
        (Config(0.5, [1, [2]]), {"v.rate": "0.5", "v.layers.0": "1", "v.layers.1": "[2]"}),
        (deque([[1], 2]), {"v.0": "[1]", "v.1": "2"}),
    ],
)
def test_the_parts_of_a_container_are_named_by_their_path(value: object, texts: dict[str, str]) -> None:
    assert shown(value) == texts


def test_tensors_and_arrays_are_no_values() -> None:
    state = {
        "t": torch.ones(2),
        "a": np.ones(2),
        "mixed": [1, torch.ones(1), np.ones(1)],
        "arrays": [np.ones(1)],
        "n": 1,
    }
    assert shown(state) == {"v.mixed.0": "1", "v.n": "1"}


@pytest.mark.parametrize("value", ["x" * 1000, b"x" * 1000, "\n" * 100, 1 << 10_000])
def test_a_long_value_is_cut(value: object) -> None:
    (text,) = shown(value).values()
    assert len(text) <= LONGEST + len("bytes()")
    assert "..." in text
    assert "..." not in shown("x" * (LONGEST - 2))["v"]


def test_a_tag_of_a_newer_version_is_shown_as_it_stands() -> None:
    assert [v.text for v in values({SHARED: {"v": {"$quaternion": [1, 2, 3, 4]}}})] == ["quaternion(1, 2, 3, 4)"]


def test_what_is_one_ranks_own_begins_with_its_scope() -> None:
    found = values({SHARED: {"a": 1}, "rank-1": {"a": {"b": 2}}, "rank-2": {}})
    assert [(v.name, v.text) for v in found] == [("a", "1"), ("rank-1.a.b", "2")]


def test_the_scope_of_all_ranks_has_the_same_name_here_and_where_it_is_written() -> None:
    assert SHARED == restoring.SHARED
