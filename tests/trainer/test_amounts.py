"""Amounts: how many samples a batch of any kind holds, and how it comes to a device."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from asyncckpt.trainer.amounts import moved, samples_of


@dataclass(frozen=True, slots=True)
class Pair:
    name: str
    x: Tensor


class Known(OrderedDict[str, Any]):
    """A mapping of a class of its own."""


class Graph:
    """Knows itself how it is moved."""

    def __init__(self, device: str) -> None:
        self.device = device

    def to(self, device: torch.device) -> Graph:
        return Graph(str(device))


def test_e16_samples_are_those_of_the_first_tensor_that_has_some() -> None:
    x = torch.ones(5, 2)
    for batch in (
        x, (x, 0), {"ids": ["a", "b"], "x": x}, {"at": torch.tensor(3), "x": x}, Pair("a", x), ["ab", [{"x": (x,)}]],
    ):  # fmt: skip
        assert samples_of(batch) == 5
    for batch in ("ab", None, {}, [], torch.tensor(3), Pair):
        assert samples_of(batch) == 1


def test_e16_whatever_holds_tensors_is_moved_and_stays_what_it_was() -> None:
    meta, x = torch.device("meta"), torch.ones(2)
    for batch, find in (
        ((x, "a"), lambda moved: moved[0]),
        ({"x": x}, lambda moved: moved["x"]),
        (Known(x=[x]), lambda moved: moved["x"][0]),
        (MappingProxyType({"x": x}), lambda moved: moved["x"]),
        (Pair("a", x), lambda moved: moved.x),
    ):
        there = moved(batch, meta)
        assert find(there).device == meta
        assert find(batch).device == x.device, "that of the loader stays where it was"
        assert type(there) in (type(batch), dict)
    assert moved(Graph("cpu"), meta).device == "meta"
    assert type(moved(Known(x=x), meta)) is Known
    assert [moved(batch, meta) for batch in ("ab", None, Pair)] == ["ab", None, Pair]
