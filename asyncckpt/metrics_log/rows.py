"""Rows: one JSON object per line, strict, and what they mean.

``{"step":10,"timestamp":"2026-03-01T12:00:00.000000+00:00","loss":1.5}``. JSON has no NaN and no infinities: they are
the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which Python's, numpy's and pandas' ``float`` all read, and
come back as floats. A metric is a number or null, so no string can be mistaken for one.
"""

from __future__ import annotations

import json
import math
import numbers
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

Value: TypeAlias = float | int | bool | None
"""One metric of one row; None where the training had none to give."""

_OURS = re.compile(r"_*(step|timestamp|event)")
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class Row:
    """What was logged at `step`, or with `event` what happened there; `timestamp` is ISO 8601 in UTC."""

    step: int
    timestamp: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    event: str | None = None


def step_of(step: Any) -> int:
    """`step` as an int. Raises `TypeError` for what is no whole number and `ValueError` below 0."""
    if isinstance(step, bool):
        raise TypeError(f"step={step!r}: a step is the number of completed optimizer steps")
    try:
        number = operator.index(step)
    except TypeError:
        raise TypeError(f"step={step!r}: a step is the number of completed optimizer steps") from None
    if number < 0:
        raise ValueError(f"step={number}: steps are counted from 0")
    return number


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, Value]:
    """`metrics` as plain numbers: tensors and numpy values of one element give theirs.

    A tensor on a device is waited for. Raises `TypeError` that names a metric which is no number.
    """
    return {_name(name): _number(name, value) for name, value in metrics.items()}


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"metrics have a name that is not a string: {name!r}")
    return name


def _number(name: str, value: Any) -> Value:
    if value is None or type(value) in (bool, int, float):
        return cast(Value, value)
    plain = _one(value)
    if isinstance(plain, bool):
        return plain
    if isinstance(plain, int):
        return int(plain)  # an Enum's member, for one
    if isinstance(plain, numbers.Real) or hasattr(plain, "as_tuple"):  # fractions and decimals
        return float(plain)
    raise TypeError(f"metric {name!r} is {_shown(value)}: give a number, or a tensor of one element")


def _one(value: Any) -> Any:
    item = getattr(value, "item", None)
    if item is None:
        return value
    try:
        return item()
    except (RuntimeError, TypeError, ValueError):  # several elements, or none
        return value


def _shown(value: object) -> str:
    shape = getattr(value, "shape", None)
    of = "" if shape is None else f" of shape {tuple(shape)}"
    return f"a {type(value).__name__}{of}"


def encode(step: int, seconds: float, values: Mapping[str, Any], event: str | None = None) -> bytes:
    """One row as a line; `seconds` is Unix time. A metric called step, timestamp or event gets a ``_`` in front."""
    row: dict[str, Any] = {"step": step, "timestamp": iso(seconds)}
    if event is not None:
        row["event"] = event
    row.update((f"_{name}" if _OURS.fullmatch(name) else name, _strict(value)) for name, value in values.items())
    return _ENCODER.encode(row).encode() + b"\n"


def iso(seconds: float) -> str:
    """Unix time as ISO 8601 in UTC, with microseconds: of one width, so that text sorts as time does."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _strict(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def decode(line: bytes) -> Row:
    """The row in `line`; raises `ValueError` for what is none."""
    found = _DECODER.decode(line.decode())
    if not isinstance(found, dict):
        raise ValueError("not an object")
    step, timestamp, event = found.pop("step", None), found.pop("timestamp", None), found.pop("event", None)
    if type(step) is not int or not isinstance(timestamp, str) or not isinstance(event, str | None):
        raise ValueError("it has no step or no timestamp")
    return Row(step, timestamp, {_plain(name): _value(value) for name, value in found.items()}, event)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
"""Made once: for a row of a few metrics the making takes as long as the decoding."""


def _plain(name: str) -> str:
    return name[1:] if name[:1] == "_" and _OURS.fullmatch(name) else name


def _value(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
