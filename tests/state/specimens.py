"""Classes that states are made of, and the way of a value through a checkpoint and back."""

from __future__ import annotations

import functools
import json
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, fields, is_dataclass
from datetime import datetime, timedelta, tzinfo
from enum import Enum, Flag, IntEnum, StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pytest
import torch

from asyncckpt.errors import UnsupportedState
from asyncckpt.format.sealed import canonical
from asyncckpt.state.values import decode, encode

HERE = __name__
Path = tuple[str, ...]
T = TypeVar("T")


class Colour(Enum):
    RED = 1
    GREEN = "g"


class Level(IntEnum):
    LOW = 1


class Mode(StrEnum):
    MAX = "max"


class Bits(Flag):
    A = 1
    B = 2


class Moments(NamedTuple):
    mu: Any
    nu: Any = None


Legacy = namedtuple("Legacy", "x y")


class Labelled(Moments):
    """A named tuple with room for attributes."""


@dataclass
class Config:
    lr: Any
    layers: list[int] = field(default_factory=list)
    parent: Config | None = None


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: object = None


@dataclass
class Derived:
    """Its fields are not what it was called with, and calling it once more would change them again."""

    lr: float
    warm: float = field(init=False)
    scale: InitVar[float] = 1.0
    calls = 0

    def __post_init__(self, scale: float) -> None:
        Derived.calls += 1
        self.lr *= 2
        self.warm = self.lr / 10

    @functools.cached_property
    def doubled(self) -> float:
        return self.lr * 2


@dataclass
class Box(Generic[T]):
    item: T

    class Inner(Enum):
        ONE = 1


@dataclass
class DictLike(dict[str, int]):
    """As the outputs of transformers' models are."""

    a: int = 1


class Slotted:
    __slots__ = ("hidden",)


@dataclass
class OnSlots(Slotted):
    a: int = 1


@dataclass
class Finalised:
    a: int = 1

    def __del__(self) -> None:
        """Code that runs when nobody calls it."""


class FinalisedTuple(Moments):
    def __del__(self) -> None:
        """Code that runs when nobody calls it."""


class Subclass(OrderedDict[str, int]):
    pass


class Text(str):
    __slots__ = ()


class Single(np.float32):
    pass


class NumpyText(np.str_):
    __slots__ = ()


class Zone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, moment: datetime | None) -> None:
        return None

    def tzname(self, moment: datetime | None) -> str:
        return "here"


# -- through a checkpoint, and compared --------------------------------------------------------------------


def through(value: object, path: Path = ("extra",)) -> Any:
    """`value` out to canonical bytes and back, its tensors by path."""
    tensors: dict[Path, torch.Tensor] = {}

    def sink(where: Path, tensor: torch.Tensor) -> None:
        assert all(type(name) is str for name in where)
        assert where not in tensors, "two tensors of one path"
        tensors[where] = tensor

    data = json.loads(canonical(encode(value, path, sink)), parse_float=pytest.fail)
    return decode(data, tensors.__getitem__)


def paths(value: object, path: Path = ("extra",)) -> list[Path]:
    found: list[Path] = []
    encode(value, path, lambda where, _: found.append(where))
    return found


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, and of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return same_builtins(a, b)


def same_builtins(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        attributes = same(vars(a), vars(b)) if isinstance(a, OrderedDict) else True
        return attributes and same_items(a.items(), b.items())
    if isinstance(a, list | tuple | deque):
        return getattr(a, "maxlen", 0) == getattr(b, "maxlen", 0) and same_items(a, b)
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    # NaN is not equal to itself; and python does not print integers of thousands of digits.
    return bool(a == b) if type(a) is int else repr(a) == repr(b)


def same_items(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def nested(levels: int, wrap: Callable[[object], object]) -> object:
    value: object = 0.5
    for _ in range(levels):
        value = wrap(value)
    return value


def refusal(value: object, path: Path = ("extra",)) -> str:
    with pytest.raises(UnsupportedState) as caught:
        encode(value, path, lambda where, tensor: None)
    return str(caught.value)
