"""What goes in comes out, type and value."""

from __future__ import annotations

import math
import pathlib
import re
import sys
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import (
    HERE,
    Bits,
    Box,
    Colour,
    Config,
    Derived,
    Frozen,
    Labelled,
    Legacy,
    Level,
    Mode,
    Moments,
    NumpyText,
    Single,
    paths,
    refusal,
    same,
    through,
)

from asyncckpt.errors import IncompatibleState
from asyncckpt.format.sealed import Json, canonical
from asyncckpt.state.values import decode, encode, readable

EXAMPLE_TZ = [UTC, timezone(timedelta(hours=-3, minutes=30)), timezone(timedelta(hours=2), "CEST")]
EXAMPLE_ZONES = [zoneinfo.ZoneInfo(key) for key in ("UTC", "Europe/Berlin") if key in zoneinfo.available_timezones()]
any_text = st.text(st.characters())  # lone surrogates included
dollars = st.sampled_from(["$", "$float", "$dict", "$tensor", "a$"])
numpy_scalars = st.sampled_from(
    [
        *(np.float16(0.1), np.float32("nan"), np.float64(-0.0), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True)),
        *(np.complex64(1 - 2j), np.longdouble("0.1"), np.str_(""), np.str_("a\0"), np.bytes_(b"a\0")),
        *(np.datetime64("2024-02-29T12", "h"), np.timedelta64(5, "ns"), np.void(b"\0\1")),
    ]
)
keys = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | any_text
    | dollars
    | st.binary()
    | st.datetimes(timezones=st.sampled_from([None, *EXAMPLE_TZ, *EXAMPLE_ZONES]))
    | st.sampled_from([Colour.RED, Level.LOW, Mode.MAX, torch.bfloat16, pathlib.Path("a"), torch.Size([2])])
    | numpy_scalars.filter(lambda scalar: not isinstance(scalar, np.void)),
    lambda key: st.lists(key, max_size=3).map(tuple) | st.frozensets(key, max_size=3),
    max_leaves=5,
)
leaves = (
    keys
    | st.complex_numbers()
    | st.binary().map(bytearray)
    | st.dates()
    | st.timedeltas()
    | st.builds(torch.arange, st.integers(0, 4))
    | st.sets(keys, max_size=3)
    | st.lists(st.integers(-9, 9)).map(lambda items: np.array(items, dtype=np.int16))
    | numpy_scalars
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(any_text | dollars, inner, max_size=4).map(OrderedDict)
        | st.dictionaries(keys, inner, max_size=4).map(lambda pairs: defaultdict(list, pairs))
        | st.lists(inner, max_size=3).map(lambda items: deque(items, 3))
        | st.builds(Moments, inner, inner)
        | st.builds(Config, inner, st.lists(inner, max_size=2))
        | st.builds(Frozen, inner, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(anything)
def test_any_state_comes_back(value: object) -> None:
    assert same(through(value), value)


@settings(max_examples=100, deadline=None)
@given(anything)
def test_equal_states_are_equal_bytes(value: object) -> None:
    first = canonical(encode(value, (), lambda path, tensor: None))
    assert canonical(encode(through(value, ()), (), lambda path, tensor: None)) == first


EXACT: list[object] = [
    *(0, -1, 2**53 - 1, 2**53, -(2**53), 2**64, -(10**5000)),
    *(0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, 1e22),
    *(complex(-0.0, math.nan), complex(math.inf, -0.0)),
    *("", "\ud800", "\udfff\ud800", "\0", "ä", "$float", b"", b"\xff\0", bytearray(b"x"), None, True, False),
    *((), [], {}, set(), frozenset(), ((),), [[]], {"": {}}, OrderedDict(), deque(), Counter()),
    *([2**53 - 1, 0], [0, 2**53], [-(2**53), 0], [1, True], (3, 2, 1), (2**64, 0)),
    {"b": 1, "a": 2},
    {"a": 1, "b": 2},
    {"$float": "0.1"},
    {"$": 1},
    {"a": 1, "$b": 2},
    {1: "int", "1": "str", (1,): "tuple", None: 0, 0.5: "half"},
    {frozenset({1, (2, "a")}): 1, b"k": 2, Colour.RED: 3, torch.float16: 4, pathlib.PurePosixPath("a"): 5},
    {1, "1", (1, 2), None, frozenset({3})},
    OrderedDict(b=1, a=OrderedDict(c=2)),
    Counter({"a": 3, "b": -1}),
    defaultdict(int, a=1),
    defaultdict(None, a=1),
    deque([1, 2], maxlen=2),
    *(datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zone) for zone in [None, *EXAMPLE_ZONES]),
    datetime(1, 1, 1, 0, 0, 0, 1),
    *(datetime(9999, 12, 31, tzinfo=tz) for tz in EXAMPLE_TZ),
    *(timedelta.min, timedelta.max, timedelta(microseconds=-1), date.min, date.max),
    *EXAMPLE_TZ,
    *EXAMPLE_ZONES,
    *(pathlib.Path("a/b"), pathlib.Path(), pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("c:\\a")),
    pathlib.PurePosixPath("caf\udce9"),
    *(Colour.GREEN, Level.LOW, Mode.MAX, Bits.A, Box.Inner.ONE, re.RegexFlag.IGNORECASE),
    *(torch.bfloat16, torch.complex32, torch.qint8, torch.device("cpu"), torch.device("cuda", 1)),
    *(torch.device("meta"), torch.Size([]), torch.Size([0, 2**62])),
    *(Moments(1, [2]), Legacy(1, y=2), Labelled(1, 2)),
    *(Config(0.1, [1], Config(0.2)), Frozen(1, ()), Box([1]), Derived(1.0, scale=3.0)),
]


@pytest.mark.parametrize("value", EXACT, ids=lambda value: type(value).__name__)
def test_every_kind_of_value_comes_back_exactly(value: object) -> None:
    assert same(through(value), value)
    assert same(through([value, {"k": value}]), [value, {"k": value}])


def test_the_json_of_ordinary_values_reads_naturally() -> None:
    def to_json(value: object) -> Json:
        return encode(value, (), lambda path, tensor: None)

    assert to_json({"a": [1, None, True, "x"], "b": {}}) == {"a": [1, None, True, "x"], "b": {}}
    assert to_json(0.1) == {"$float": "0.1"}
    assert to_json((1, 2)) == {"$tuple": [1, 2]}
    assert to_json({0: 1}) == {"$dict": [[0, 1]]}
    assert to_json(2**53) == {"$int": "0x20000000000000"}
    assert to_json([1, 2**53]) == [1, {"$int": "0x20000000000000"}]
    assert to_json([1, -(2**53)]) == [1, {"$int": "-0x20000000000000"}]
    assert to_json(Colour.RED) == {"$enum": [f"{HERE}:Colour", "RED"]}
    assert to_json(Frozen(1)) == {"$dataclass": [f"{HERE}:Frozen", {"a": 1, "b": None}]}


def test_the_order_of_keys_survives_canonical_json() -> None:
    group = {"lr": 0.1, "betas": (0.9, 0.99), "amsgrad": False}
    assert list(through(group)) == ["lr", "betas", "amsgrad"]


# -- tensors and their paths -------------------------------------------------------------------------------


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_model_and_an_optimizer_come_back_and_go_on_alike() -> None:
    model, optimizer = trained()
    saved = through({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, ())
    assert same(saved, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert list(vars(saved["model"])) == ["_metadata"]
    assert list(saved["optimizer"]["state"]) == [0, 1, 2, 3]


def test_the_paths_of_ordinary_states_read_naturally() -> None:
    model, optimizer = trained()
    found = paths({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, ())
    assert ("model", "0.weight") in found
    assert ("optimizer", "state", "0", "exp_avg") in found
    assert len(found) == 7 + 4 * 3


def test_every_way_to_a_tensor_has_its_own_component() -> None:
    t = torch.zeros(1)
    assert paths({"a": [t, (t,)]}) == [("extra", "a", "0"), ("extra", "a", "1", "0")]
    assert paths(Moments(t, deque([t]))) == [("extra", "mu"), ("extra", "nu", "0")]
    assert paths(Config(t)) == [("extra", "lr")]
    assert paths({"1": t, 1: t, "1##": t}) == [("extra", "1"), ("extra", "1#"), ("extra", "1##")]
    assert paths({1: t, "1#": t, "1": t}) == [("extra", "1##"), ("extra", "1#"), ("extra", "1")]
    assert paths({None: t, True: t, (1, "a"): t}) == [
        ("extra", "null"),
        ("extra", "true"),
        ("extra", '{"$tuple":[1,"a"]}'),
    ]


def test_keys_that_differ_in_nothing_but_identity_have_different_paths() -> None:
    value = {float("nan"): torch.zeros(1), float("nan"): torch.ones(1)}
    assert same(through(value), value)


def test_metadata_of_an_ordered_dict_does_not_take_the_path_of_a_key() -> None:
    value: OrderedDict[str, object] = OrderedDict({"_metadata": {"a": torch.zeros(1)}})
    vars(value)["_metadata"] = {"a": torch.ones(1)}
    assert same(through(value), value)


def test_the_source_decides_what_stands_for_a_tensor() -> None:
    data = encode({"a": torch.zeros(1), "n": np.zeros(1)}, ("extra",), lambda path, tensor: None)
    assert decode(data, readable) == {"a": "extra.a", "n": "extra.n"}


# -- numpy -------------------------------------------------------------------------------------------------

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array(5, dtype=np.int64),
    np.zeros((0, 3), dtype=np.uint16),
    np.array([True, False]),
    np.array([1 + 2j], dtype=np.complex128),
    np.arange(4)[::-1],
    np.arange(12).reshape(3, 4)[:, 1::2],
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(3, dtype=">i4"),
    np.array(["a", "bcd", ""]),
    np.array(["", ""]),
    np.array([b"a\0", b"bcd"]),
    np.array(["2024-02-29", "NaT"], dtype="M8[D]"),
    np.array([1, 2], dtype="m8[25ns]"),
    np.array([0.1], dtype=np.longdouble),
    np.array([b"\0\1"], dtype="V2"),
    np.frombuffer(b"\1\2", dtype=np.uint8),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_arrays_come_back_with_their_dtype_and_writable(array: Any) -> None:
    back = through({"a": array})["a"]
    assert same(back, array)
    assert back.flags.writeable


def test_a_c_type_of_which_numpy_has_two_comes_back_with_an_equal_dtype() -> None:
    assert through(np.longlong(7)).dtype == np.longlong(7).dtype


def test_arrays_that_torch_can_hold_are_tensors_and_share_memory() -> None:
    array = np.zeros(3, dtype=np.float32)
    seen: list[torch.Tensor] = []
    encode([array], (), lambda path, tensor: seen.append(tensor))
    array[0] = 7
    assert seen[0].tolist() == [7, 0, 0]
    assert paths([array[::-1], np.frombuffer(b"1234", np.int32)]) == [("extra", "0"), ("extra", "1")]
    assert paths([np.array(["text"])]) == []


def test_an_array_comes_back_from_wherever_its_tensor_lies() -> None:
    data = encode(np.ones(2, dtype=np.float32), (), lambda path, tensor: None)
    back = decode(data, lambda path: torch.ones(2, requires_grad=True))
    assert same(back, np.ones(2, dtype=np.float32))


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.zeros(1, dtype=[("a", "i4")]),
        np.zeros(1, dtype=[("a", "i4")])[0],
        np.ma.masked_array([1], [True]),
        np.zeros(1).view(np.recarray),
        np.random.default_rng(0),
        np.dtype("f4"),
        np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]),
        *([np.array(["a"], dtype=np.dtypes.StringDType())] if hasattr(np.dtypes, "StringDType") else []),
    ],
    ids=lambda value: type(value).__name__ + str(getattr(value, "dtype", "")),
)
def test_numpy_values_that_are_more_than_their_bytes_are_refused(value: object) -> None:
    assert refusal([value]).startswith("extra[0]: cannot hold a value of type numpy.")


@pytest.mark.parametrize("value", [Single(1), NumpyText("a")], ids=lambda value: type(value).__name__)
def test_subclasses_of_numpy_scalars_are_refused(value: object) -> None:
    assert "a subclass of a numpy scalar" in refusal(value)


def test_without_numpy_nothing_imports_it_and_its_values_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode([np.float32(1), np.zeros(1), np.array(["a"])], (), lambda path, tensor: None)
    assert isinstance(data, list)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert "type range" in refusal(range(3))
    for item in data:
        with pytest.raises(IncompatibleState, match="install numpy"):
            decode(item, lambda path: torch.zeros(1))
