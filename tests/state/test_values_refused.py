"""What cannot be held is refused by path, with a way out."""

from __future__ import annotations

import math
import pathlib
import re
import sys
import zoneinfo
from collections import ChainMap, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from datetime import datetime, time
from typing import Any

import numpy
import pytest
import torch
from specimens import (
    HERE,
    Bits,
    Colour,
    Config,
    Derived,
    DictLike,
    Finalised,
    FinalisedTuple,
    Frozen,
    Labelled,
    Level,
    Moments,
    OnSlots,
    Path,
    Subclass,
    Text,
    Zone,
    nested,
    refusal,
    same,
    through,
)

from asyncckpt.state.values import MAX_DEPTH, encode, readable


def local_class() -> object:
    @dataclass
    class Local:
        a: int = 1

    return Local()


def with_attribute(value: Any, name: str) -> Any:
    value.__dict__[name] = 1
    return value


def without_field(value: Any, name: str) -> Any:
    delattr(value, name)
    return value


REFUSED: dict[str, tuple[object, str]] = {
    "object": (object(), "type object"),
    "function": (print, "type builtin_function_or_method"),
    "lambda": (lambda: None, "type function"),
    "class": (Config, "type type"),
    "enum class": (Colour, "EnumType"),
    "module": (math, "type module"),
    "nn.Module": (
        torch.nn.Linear(1, 1),
        r"type torch\.nn\.modules\.linear\.Linear",
    ),
    "generator": (torch.Generator(), r"torch\._C\.Generator"),
    "iterator": (iter([1]), "type list_iterator"),
    "range": (range(3), "type range"),
    "memoryview": (memoryview(b"a"), "type memoryview"),
    "time": (time(1), r"datetime\.time"),
    "str subclass": (Text("a"), rf"{HERE}\.Text"),
    "torch version": (torch.__version__, "TorchVersion"),
    "dict subclass": (Subclass(), rf"{HERE}\.Subclass"),
    "UserDict": (UserDict(), "UserDict"),
    "ChainMap": (ChainMap(), "ChainMap"),
    "return type": (torch.zeros(1, 1).max(0), "torch.return_types.max"),
    "flags": (Bits.A | Bits.B, "a combination of members"),
    "own tzinfo": (datetime(2024, 1, 1, tzinfo=Zone()), "its tzinfo is a Zone"),
    "default factory": (defaultdict(lambda: 0), "its default is made by code"),
    "odict attribute": (with_attribute(OrderedDict(), "note"), "it has an attribute: note"),
    "local class": (local_class(), "define it at the top of a module"),
    "made class": (make_dataclass("Made", ["a"])(1), "define it at the top of a module"),
    "dataclass with more": (with_attribute(Config(1.0), "note"), "an attribute that is no field: note"),
    "dataclass with less": (without_field(Derived(1.0), "warm"), "its field warm has no value"),
    "dataclass of a dict": (DictLike(), "it is more than its fields"),
    "dataclass on slots": (OnSlots(), "it is more than its fields"),
    "dataclass with a finaliser": (Finalised(), "it is more than its fields"),
    "named tuple with a finaliser": (FinalisedTuple(1), rf"{HERE}\.FinalisedTuple"),
    "named tuple with more": (with_attribute(Labelled(1), "note"), "besides its fields"),
}


@pytest.mark.parametrize(("value", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_held_is_refused_by_path_with_a_way_out(value: object, reason: str) -> None:
    message = refusal({"state": {0: {"foo": value}}}, ("optimizer",))
    assert message.startswith("optimizer.state[0].foo: ")
    assert re.search(reason, message)
    assert "state_dict()" in message
    assert message.endswith("or leave it out of what is saved")


@pytest.mark.parametrize("name", ["\ud800", "\U0001f600\udfff", "a\ud83d"])
@pytest.mark.parametrize("value", [torch.zeros(1), numpy.zeros(1)], ids=["tensor", "array"])
def test_a_tensor_under_a_name_that_is_no_text_is_refused_by_it(name: str, value: object) -> None:
    message = refusal({"state": {name: [{"foo": value}]}}, ("extra",))
    assert message.startswith(f"extra.state[{name!r}][0].foo: ")
    assert "lone surrogate" in message
    assert through({name: [1, name]}) == {name: [1, name]}
    assert refusal({(name, 1): object()}).startswith("extra['{")


@pytest.mark.parametrize("name", ["ä", "\U0001f600", "\ud7ff\ue000"])
def test_a_tensor_under_a_name_of_other_letters_is_held(name: str) -> None:
    assert through({name: torch.ones(1)})[name].item() == 1


def test_a_zone_that_was_read_from_a_file_is_refused() -> None:
    tables = [pathlib.Path(folder, "Europe/Berlin") for folder in zoneinfo.TZPATH]
    table = next((table for table in tables if table.exists()), None)
    if table is None:
        pytest.skip("this machine has no time zone tables outside of packages")
    with table.open("rb") as file:
        zone = zoneinfo.ZoneInfo.from_file(file)
    assert "has no key" in refusal(zone)
    assert "has no key" in refusal(datetime(2024, 1, 1, tzinfo=zone))


@pytest.mark.parametrize(
    "key",
    [torch.zeros(1), Frozen(1), (1, Frozen(1)), Moments(torch.zeros(1)), object(), (torch.zeros(1),)],
    ids=lambda key: type(key).__name__,
)
def test_keys_and_elements_with_code_or_identity_of_their_own_are_refused(key: object) -> None:
    assert refusal({"state": {key: 1}}).startswith("extra.state")
    assert refusal({"state": {key}}).startswith("extra.state")


def test_a_cycle_is_refused_where_it_closes() -> None:
    loop: dict[str, Any] = {"a": [{}]}
    loop["a"][0]["b"] = (loop,)
    assert refusal(loop).startswith("extra.a[0].b[0]: cannot hold a value of type dict (it contains itself)")


def test_a_cycle_through_a_dataclass_and_one_through_metadata() -> None:
    config = Config(0.1)
    config.parent = config
    assert refusal(config).startswith("extra.parent: ")
    module: OrderedDict[str, int] = OrderedDict()
    vars(module)["_metadata"] = module
    assert refusal(module).startswith("extra._metadata: ")


def test_one_object_in_two_places_is_no_cycle() -> None:
    shared = [1]
    assert through([shared, shared, {"a": shared}]) == [[1], [1], {"a": [1]}]


WRAPS: list[Callable[[object], object]] = [
    lambda value: [value],
    lambda value: (value,),
    lambda value: {"z": value, "a": 1},
    lambda value: {(1,): value},
    lambda value: OrderedDict(a=value),
    lambda value: Frozen(1, value),
    Moments,
    lambda value: deque([value]),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_states_are_as_deep_as_promised_and_no_deeper(wrap: Callable[[object], object]) -> None:
    deepest = nested(MAX_DEPTH - 1, wrap)
    assert same(through(deepest), deepest)
    for levels in (MAX_DEPTH + 1, 100_000):
        assert "levels deep" in refusal(nested(levels, lambda value: [value]))


def test_a_class_that_is_not_what_its_name_leads_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Colour.RED
    monkeypatch.setattr(sys.modules[HERE], "Colour", Level)
    assert f"cannot be found as {HERE}:Colour" in refusal(member)


def test_errors_of_the_sink_are_its_own() -> None:
    def sink(path: Path, tensor: torch.Tensor) -> None:
        raise ValueError("the sink's")

    with pytest.raises(ValueError, match="the sink's"):
        encode([Frozen(torch.zeros(1))], (), sink)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "the state"),
        (("model", "layers.0.weight"), "model.layers.0.weight"),
        (("optimizer", "state", "0", "foo"), "optimizer.state[0].foo"),
        (("extra", "a b", "", "0.weight"), "extra['a b']['']['0.weight']"),
    ],
)
def test_paths_are_shown_as_people_write_them(path: Path, text: str) -> None:
    assert readable(path) == text
