"""Leaves: values without parts, each as a tag and JSON that gives back the same type and the same value.

A `dump` raises ValueError with the reason why a value cannot be held. A `load` is given JSON from outside and
may raise whatever its constructor raises, or an error of this package where the value is sound but has no
place in this process.
"""

from __future__ import annotations

import base64
import math
import pathlib
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Any, Final, TypeGuard, cast
from zoneinfo import ZoneInfo

import torch

from asyncckpt.errors import IncompatibleState
from asyncckpt.format.sealed import Json

# Larger integers lose digits in readers that keep numbers as float64 (JavaScript, jq), and python's own parser
# refuses decimal ones of more than 4300 digits: they are hexadecimal text.
_PLAIN_INTEGERS: Final = 1 << 53

_PURE_PATHS: Final = {
    "PurePosixPath": pathlib.PurePosixPath,
    "PureWindowsPath": pathlib.PureWindowsPath,
    "PosixPath": pathlib.PurePosixPath,
    "WindowsPath": pathlib.PureWindowsPath,
}

_NUMPY_KINDS: Final = "biufcmMSUV"
"""Kinds whose bytes are their value; objects and variable-length strings hold pointers."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """How one exact type is held: its tag, and JSON out and in."""

    tag: str
    dump: Callable[[Any], Json]
    load: Callable[[Any], object]


def are_plain_integers(items: Collection[object]) -> TypeGuard[Collection[int]]:
    """Whether all of `items` stand for themselves in JSON, found without a Python call for each.

    Random state and parameter indices are such lists; one call per number would cost a save a millisecond.
    """
    return set(map(type, items)) == {int} and _all_plain(cast(Collection[int], items))


def _all_plain(numbers: Collection[int]) -> bool:
    return min(numbers) > -_PLAIN_INTEGERS and max(numbers) < _PLAIN_INTEGERS


def integer(value: int) -> Json:
    """`value` as a JSON number where every reader keeps it exactly, else as tagged text."""
    return value if -_PLAIN_INTEGERS < value < _PLAIN_INTEGERS else {"$int": hex(value)}


def _load_complex(data: list[str]) -> complex:
    real, imaginary = data
    return complex(float(real), float(imaginary))


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _unbase64(data: str) -> bytes:
    return base64.b64decode(data, validate=True)


# -- time --------------------------------------------------------------------------------------------------


def _dump_timedelta(value: timedelta) -> list[Json]:
    return [value.days, value.seconds, value.microseconds]


def _load_timedelta(data: list[int]) -> timedelta:
    days, seconds, microseconds = data
    return timedelta(days, seconds, microseconds)


def _dump_timezone(value: timezone) -> Json:
    offset, name = value.utcoffset(None), value.tzname(None)
    named = name != timezone(offset).tzname(None)
    return [_dump_timedelta(offset), name if named else None]


def _load_timezone(data: list[Any]) -> timezone:
    offset, name = data
    return timezone(_load_timedelta(offset)) if name is None else timezone(_load_timedelta(offset), name)


def _dump_zone(value: ZoneInfo) -> Json:
    if value.key is None:
        raise ValueError("it was read from a file and has no key")
    return value.key


def _load_zone(key: str) -> ZoneInfo:
    try:
        return ZoneInfo(key)
    except Exception as error:  # from ZoneInfoNotFoundError to IsADirectoryError: all mean the same
        raise IncompatibleState(f"this machine has no time zone {key!r}: install the package tzdata") from error


def _dump_datetime(value: datetime) -> Json:
    naive: list[Json] = [value.replace(tzinfo=None).isoformat(), value.fold]
    if (zone := value.tzinfo) is None:
        return [*naive, None]
    leaf = LEAVES.get(type(zone))
    if leaf is None:
        raise ValueError(f"its tzinfo is a {type(zone).__qualname__}, neither a fixed timezone nor a ZoneInfo")
    return [*naive, {leaf.tag: leaf.dump(zone)}]


def _load_datetime(data: list[Any]) -> datetime:
    text, fold, tagged = data
    naive = datetime.fromisoformat(text).replace(fold=fold)
    if tagged is None:
        return naive
    ((tag, zone),) = tagged.items()
    return naive.replace(tzinfo=_ZONES[tag](zone))


_ZONES: Final[dict[str, Callable[[Any], tzinfo]]] = {"$timezone": _load_timezone, "$zone": _load_zone}


# -- paths, torch ------------------------------------------------------------------------------------------


def _dump_path(value: pathlib.PurePath) -> Json:
    return [type(value).__name__, str(value)]


def _load_path(data: list[str]) -> pathlib.PurePath:
    name, text = data
    # A path of the other system can be looked at but not followed: its pure class is what exists here.
    native = type(pathlib.Path())
    return native(text) if name == native.__name__ else _PURE_PATHS[name](text)


def _load_dtype(name: str) -> torch.dtype:
    dtype = vars(torch).get(name)
    if not isinstance(dtype, torch.dtype):
        raise IncompatibleState(f"this torch has no dtype {name!r}: upgrade torch")
    return dtype


def _load_device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise IncompatibleState(f"this torch knows no device {name!r}") from error


LEAVES: Final[dict[type, Leaf]] = {
    float: Leaf("$float", repr, float),
    complex: Leaf("$complex", lambda z: [repr(z.real), repr(z.imag)], _load_complex),
    bytes: Leaf("$bytes", _base64, _unbase64),
    bytearray: Leaf("$bytearray", _base64, lambda data: bytearray(_unbase64(data))),
    date: Leaf("$date", date.isoformat, date.fromisoformat),
    datetime: Leaf("$datetime", _dump_datetime, _load_datetime),
    timedelta: Leaf("$timedelta", _dump_timedelta, _load_timedelta),
    timezone: Leaf("$timezone", _dump_timezone, _load_timezone),
    ZoneInfo: Leaf("$zone", _dump_zone, _load_zone),
    pathlib.PurePosixPath: Leaf("$path", _dump_path, _load_path),
    pathlib.PureWindowsPath: Leaf("$path", _dump_path, _load_path),
    type(pathlib.Path()): Leaf("$path", _dump_path, _load_path),
    torch.dtype: Leaf("$dtype", lambda dtype: str(dtype).removeprefix("torch."), _load_dtype),
    torch.device: Leaf("$device", str, _load_device),
    torch.Size: Leaf("$size", lambda size: [int(extent) for extent in size], torch.Size),
}
"""By exact type: a subclass has more to it than its base, and would come back as less."""


# -- numpy -------------------------------------------------------------------------------------------------


def is_numpy_scalar(value: object) -> bool:
    """Whether `value` is a numpy scalar; without importing numpy, which no value can come from then."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def is_numpy_array(value: object) -> bool:
    """Whether `value` is a plain array; a subclass (masked, matrix, memmap) has more to it than its numbers."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) is numpy.ndarray


def dump_numpy_scalar(value: Any) -> Json:
    """A numpy scalar as its dtype and its bytes, text as itself."""
    # A dtype of fixed width drops NULs at the end of text, as str() of it does, and has no width for none.
    if type(value).__module__ == "numpy" and isinstance(value, str | bytes):
        return ["str", "".join(value)] if isinstance(value, str) else ["bytes", _base64(value)]
    if type(value) is not value.dtype.type:
        raise ValueError("a subclass of a numpy scalar")
    return [_dump_numpy_dtype(value.dtype), _base64(value.tobytes())]


def load_numpy_scalar(data: list[str]) -> object:
    """The inverse of `dump_numpy_scalar`."""
    numpy = _numpy()
    dtype, content = data
    if dtype == "str":
        return numpy.str_(content)
    if dtype == "bytes":
        return numpy.bytes_(_unbase64(content))
    return load_numpy_array([dtype, [], content])[()]


def numpy_as_tensor(value: Any) -> torch.Tensor | None:
    """A tensor of the same numbers, sharing memory where it can; None where torch has no such dtype."""
    _dump_numpy_dtype(value.dtype)
    # torch warns of read-only memory and refuses negative strides.
    plain = value if value.flags.writeable and value.flags.c_contiguous else value.copy()
    try:
        return torch.from_numpy(plain)
    except (TypeError, ValueError):
        return None


def dump_numpy_array(value: Any) -> Json:
    """An array that torch has no dtype for: its dtype, its shape and its bytes in row-major order."""
    return [_dump_numpy_dtype(value.dtype), list(value.shape), _base64(value.tobytes())]


def load_numpy_array(data: list[Any]) -> Any:
    """The inverse of `dump_numpy_array`."""
    text, shape, content = data
    dtype, buffer = _numpy().dtype(text), bytearray(_unbase64(content))
    _dump_numpy_dtype(dtype)
    if math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError("the bytes are not those of the shape")  # numpy would take some of them
    return _numpy().ndarray(shape, dtype, buffer=buffer)


def tensor_as_numpy(tensor: torch.Tensor) -> Any:
    """The array that `numpy_as_tensor` made a tensor of, wherever the tensor lies now."""
    _numpy()
    return tensor.numpy(force=True)


def _dump_numpy_dtype(dtype: Any) -> str:
    text: str = dtype.str
    # Both ways: bytes taken for object pointers would be followed.
    if dtype.kind not in _NUMPY_KINDS or _numpy().dtype(text) != dtype:
        raise ValueError(f"its dtype {dtype} has no plain bytes")
    return text


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise IncompatibleState("the checkpoint holds numpy values: install numpy") from error
    return numpy


LOADERS: Final[dict[str, Callable[[Any], object]]] = {
    **{leaf.tag: leaf.load for leaf in LEAVES.values()},
    "$int": lambda text: int(text, 16),
    "$numpy": load_numpy_scalar,
}
"""By tag: how each leaf comes back."""
