"""What this process does not have is named; and what nobody wrote harms nothing."""

from __future__ import annotations

import contextlib
import pathlib
import re
import sys
import types
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import HERE, Colour, Derived, Frozen, nested, same, through

from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError, IncompatibleState, UnsupportedFormat
from asyncckpt.format.sealed import Json
from asyncckpt.state.values import decode, readable


def test_a_dataclass_comes_back_without_being_called() -> None:
    value = Derived(1.0)
    assert value.doubled == 4.0  # cached in an attribute that is no field
    calls = Derived.calls
    back = through(value)
    assert (back.lr, back.warm, back.doubled) == (2.0, 0.2, 4.0)
    assert Derived.calls == calls


def test_a_field_that_is_new_gets_its_plain_default() -> None:
    old: Json = {"$dataclass": [f"{HERE}:Frozen", {"a": 1}]}
    assert decode(old, readable) == Frozen(1, None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"$dataclass": [f"{HERE}:Config", {"lr": 1, "parent": None}]}, "a field 'layers' now"),
        ({"$dataclass": [f"{HERE}:Frozen", {"a": 1, "gone": 2}]}, "no field 'gone' any more"),
        ({"$dataclass": [f"{HERE}:DictLike", {"a": 1}]}, "not a plain dataclass"),
        ({"$dataclass": [f"{HERE}:Finalised", {"a": 1}]}, "not a plain dataclass"),
        ({"$dataclass": [f"{HERE}:Colour", {}]}, "not a plain dataclass"),
        ({"$dataclass": ["logging:Formatter", {}]}, "not a plain dataclass"),
        ({"$namedtuple": [f"{HERE}:FinalisedTuple", [1, 2]]}, "not a named tuple"),
        ({"$namedtuple": [f"{HERE}:Moments", [1]]}, "had 1 fields and has 2 now"),
        ({"$namedtuple": ["builtins:tuple", []]}, "not a named tuple"),
        ({"$namedtuple": [f"{HERE}:Config", []]}, "no tuple here"),
        ({"$enum": [f"{HERE}:Colour", "BLUE"]}, "no member 'BLUE' any more"),
        ({"$enum": [f"{HERE}:Config", "lr"]}, "no Enum here"),
        ({"$enum": ["enum:Enum", "RED"]}, "no member 'RED'"),
        ({"$enum": [f"{HERE}:through", "RED"]}, "no such class"),
        ({"$enum": [f"{HERE}:Colour.RED", "RED"]}, "no such class"),
        ({"$enum": [f"{HERE}:Gone", "RED"]}, "no such class"),
        ({"$enum": ["not.imported.yet:Colour", "RED"]}, "import not.imported.yet before loading"),
        ({"$device": "flux:0"}, "knows no device 'flux:0'"),
        ({"$dtype": "float2"}, "has no dtype 'float2'"),
        ({"$dtype": "Tensor"}, "has no dtype 'Tensor'"),
        ({"$zone": "Atlantis/Capital"}, "no time zone 'Atlantis/Capital'"),
        ({"$zone": "../../etc/passwd"}, "no time zone"),
        ({"$zone": "Europe"}, "no time zone"),
    ],
)
def test_what_this_process_does_not_have_is_named(data: Json, reason: str) -> None:
    with pytest.raises(IncompatibleState, match=re.escape(reason)):
        decode(data, readable)


@pytest.mark.parametrize("odd", [None, types.SimpleNamespace(Colour=Colour), 5], ids=str)
def test_only_modules_are_looked_into(odd: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "odd", odd)
    with pytest.raises(IncompatibleState, match="import odd before loading"):
        decode({"$enum": ["odd:Colour", "RED"]}, readable)


def test_a_path_of_the_other_system_comes_back_pure() -> None:
    windows = isinstance(pathlib.Path(), pathlib.WindowsPath)
    name, kind = ("PosixPath", pathlib.PurePosixPath) if windows else ("WindowsPath", pathlib.PureWindowsPath)
    assert same(decode({"$path": [name, "a/b"]}, readable), kind("a/b"))


# -- what nobody wrote -------------------------------------------------------------------------------------


@pytest.fixture
def bait(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A module whose every attribute is a trap, and an import system that reports what is asked of it."""
    sprung: list[str] = []

    class Trap(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            sprung.append(f"attribute {name}")
            return super().__getattribute__(name)

    class Watch:
        def find_spec(self, name: str, *_: object) -> None:
            sprung.append(f"import {name}")

    monkeypatch.setitem(sys.modules, "bait", Trap("bait"))
    monkeypatch.setattr(sys, "meta_path", [Watch(), *sys.meta_path])
    return sprung


@pytest.mark.parametrize("tag", ["$enum", "$dataclass", "$namedtuple"])
@pytest.mark.parametrize(
    "name",
    [
        *(
            "os:system",
            "subprocess:Popen",
            "builtins:eval",
            "builtins:object",
            "antigravity:x",
            "bait:x.y",
            "bait:",
        ),
        *(":x", ":", "", "os", "os.path:join", "..:x", "torch:nn.Linear"),
        *(f"{HERE}:sys.modules", f"{HERE}:Config.__init__", f"{HERE}:Config.__class__"),
    ],
)
def test_names_in_a_checkpoint_import_nothing_and_call_nothing(tag: str, name: str, bait: list[str]) -> None:
    contents: list[Json] = ["RED", ["echo"], {"args": "echo"}]
    for content in contents:
        with pytest.raises(AsyncCkptError):
            decode({tag: [name, content]}, readable)
    assert bait == []


MALFORMED: list[Any] = [
    1.5,
    object(),
    b"bytes",
    {1: 2},
    {"$float": "x"},
    {"$float": None},
    {"$int": 5},
    {"$int": "0xg"},
    {"$complex": ["1"]},
    {"$bytes": "\N{SNOWMAN}"},
    {"$bytes": "a"},
    {"$bytes": "AA==!"},
    {"$bytearray": 5},
    {"$date": "soon"},
    {"$datetime": ["2024-01-01", 0]},
    {"$datetime": ["2024-01-01", 2, None]},
    {"$datetime": ["2024-01-01", 0, {"$float": "1"}]},
    {"$timedelta": [10**12, 0, 0]},
    {"$timezone": [[9, 0, 0], None]},
    {"$path": ["Path", "a"]},
    {"$path": ["str", "a"]},
    {"$path": "a"},
    {"$dtype": []},
    {"$device": {}},
    {"$size": ["a"]},
    {"$size": 5},
    {"$enum": []},
    {"$enum": [5, "RED"]},
    {"$enum": [f"{HERE}:Colour", []]},
    {"$tuple": {}},
    {"$tuple": "ab"},
    {"$set": [[1]]},
    {"$set": [1, 1]},
    {"$set": [{"$tensor": ["a"]}]},
    {"$set": [{"$dataclass": [f"{HERE}:Frozen", {"a": 1}]}]},
    {"$frozenset": [{"$set": []}]},
    {"$dict": {}},
    {"$dict": [[1]]},
    {"$dict": [[1, 2, 3]]},
    {"$dict": ["ab"]},
    {"$dict": [[1, 2], [1, 3]]},
    {"$dict": [[[], 1]]},
    {"$dict": [[{"$bytearray": ""}, 1]]},
    {"$dict": [[{"$dataclass": [f"{HERE}:Frozen", {"a": 1}]}, 1]]},
    {"$odict": []},
    {"$counter": 5},
    {"$defaultdict": ["eval", []]},
    {"$defaultdict": [[], []]},
    {"$deque": [[1], "x"]},
    {"$deque": [[1], -1]},
    {"$namedtuple": [f"{HERE}:Moments", {}]},
    {"$dataclass": [f"{HERE}:Frozen", []]},
    {"$dataclass": [["os", "system"], {}]},
    {"$tensor": "a"},
    {"$tensor": [1]},
    {"$tensor": None},
    {"$array": {"a": 1}},
    {"$array": {"$float": "1"}},
    {"$array": ["O", [1], "AAAAAAAAAAA="]},
    {"$array": ["|O", [1], "AAAAAAAAAAA="]},
    {"$array": ["i4,O", [1], "AAAAAAAAAAAAAAAA"]},
    {"$array": ["T", [1], "AAAAAAAAAAAAAAAAAAAAAA=="]},
    {"$array": ["<f4", [2], "AAAAAA=="]},
    {"$array": ["<f4", [1], "AAAAAAAAAAA="]},
    {"$array": ["<f4", [-1], "AAAAAA=="]},
    {"$array": ["<f4", [-1, -1], "AAAAAA=="]},
    {"$array": ["<f4", [10**30], ""]},
    {"$array": ["<f4", "a", ""]},
    {"$array": [[["a", "O"]], [1], "AAAAAAAAAAA="]},
    {"$numpy": ["O", "AAAAAAAAAAA="]},
    {"$numpy": ["<f4", "AA=="]},
    {"$numpy": 5},
    {"$float": "1", "$int": "0x1"},
    {"$float": "1", "a": 1},
    nested(100, lambda value: [value] if value != 0.5 else []),
    nested(100, lambda value: {"$tuple": [value]} if value != 0.5 else 1),
    nested(100, lambda value: {"a": value} if value != 0.5 else 1),
]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: "object" if type(data) is object else f"{data!a:.40}")
def test_what_was_never_written_is_corrupt(data: Any) -> None:
    with pytest.raises(CheckpointCorruptError):
        decode(data, lambda path: torch.zeros(1))
    with pytest.raises(CheckpointCorruptError):
        decode([{"a": data}], lambda path: torch.zeros(1))


def test_even_deep_junk_is_shown_in_brief() -> None:
    deep: Any = nested(100_000, lambda value: [value])
    with pytest.raises(CheckpointCorruptError) as caught:
        decode({"$float": deep}, readable)
    assert len(str(caught.value)) < 200


def test_a_tensor_of_a_dtype_that_numpy_lacks_is_no_array() -> None:
    with pytest.raises(CheckpointCorruptError):
        decode({"$array": {"$tensor": ["a"]}}, lambda path: torch.zeros(1, dtype=torch.bfloat16))


def test_an_unknown_tag_is_of_a_newer_version() -> None:
    for tag in ("$", "$pickle", "$Float"):
        with pytest.raises(UnsupportedFormat, match=re.escape(repr(tag))):
            decode({"a": [{tag: 1}]}, readable)


def test_errors_of_the_source_are_its_own() -> None:
    def source(path: tuple[str, ...]) -> object:
        raise KeyError(path)

    with pytest.raises(KeyError):
        decode([{"$tuple": [{"$tensor": ["a"]}]}], source)


KNOWN_TAGS = st.sampled_from(
    [
        *("$int", "$float", "$complex", "$bytes", "$bytearray", "$date", "$datetime", "$timedelta", "$timezone"),
        *("$zone", "$path", "$dtype", "$device", "$size", "$numpy", "$enum", "$tensor", "$array", "$tuple"),
        *("$deque", "$set", "$frozenset", "$dict", "$odict", "$counter", "$defaultdict", "$namedtuple"),
        *("$dataclass", "$new"),
    ]
)
JUNK_TEXT = st.sampled_from(
    [
        *(f"{HERE}:Colour", f"{HERE}:Frozen", f"{HERE}:Moments", "RED", "os:system", "0x1", "nan", "2024-01-01"),
        *(
            "list",
            "PosixPath",
            "WindowsPath",
            "cpu",
            "float32",
            "UTC",
            "<f4",
            "<U2",
            "|O",
            "AAAA",
            "AAAAAAAA",
            "a",
        ),
    ]
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | JUNK_TEXT | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(JUNK_TEXT, inner, max_size=3)
        | st.dictionaries(KNOWN_TAGS, inner, min_size=1, max_size=1)
    ),
    max_leaves=12,
)


@settings(max_examples=600, deadline=None)
@given(KNOWN_TAGS, junk)
def test_junk_under_any_tag_is_a_value_or_an_error_of_this_package(tag: str, data: Any) -> None:
    with contextlib.suppress(AsyncCkptError):
        decode({tag: data}, lambda path: torch.zeros(1))
