"""Overrides: what somebody has typed on a command line, ``training.lr=1e-3``, put over a configuration."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from asyncckpt.errors import ConfigurationError

Overrides: TypeAlias = Sequence[str] | Mapping[str, Any]
"""``["training.lr=1e-3"]``, or values by dotted path."""


def by_path(overrides: Overrides) -> dict[str, Any]:
    """The values by dotted path, of two for one path the later; two dashes before a path are left out.

    A value is JSON (``3``, ``1e-3``, ``true``, ``null``, ``[1, 2]``, ``"3"``), and what is no JSON is a text. Raises
    `ConfigurationError` for what is neither.
    """
    if isinstance(overrides, Mapping):
        given = dict(overrides)
    else:
        given = dict(map(_typed, [overrides] if isinstance(overrides, str) else overrides))
    for path in given:
        words(path)
    return given


def _typed(argument: str) -> tuple[str, Any]:
    path, sign, text = argument.partition("=")
    if not sign:
        raise ConfigurationError(f"{argument!r} overrides nothing: write path=value, such as training.lr=1e-3")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return path.strip().removeprefix("--"), value


def overridden(values: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A copy of `values` with what is `given` by dotted path, and the paths of it that were not there."""
    result = copy.deepcopy(dict(values))
    new = tuple(path for path in given if not _is_there(result, path))
    for path, value in given.items():
        put(result, path, copy.deepcopy(value))
    return result, new


def _is_there(values: Any, path: str) -> bool:
    for word in words(path):
        if not isinstance(values, Mapping) or word not in values:
            return False
        values = values[word]
    return True


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path, in place; sections that are missing or None are made."""
    *above, last = words(path)
    inside = values
    for count, word in enumerate(above, 1):
        if inside.get(word) is None:
            inside[word] = {}
        inside = inside[word]
        if not isinstance(inside, dict):
            where = ".".join(above[:count])
            raise ConfigurationError(f"{path} cannot be set: {where} is {inside!r}, no section with fields")
    inside[last] = value


def words(path: str) -> list[str]:
    """The parts of a dotted path; raises `ConfigurationError` where one is missing."""
    parts = path.split(".")
    if not all(parts):
        raise ConfigurationError(f"{path!r} is no path: use names with dots between them, such as model.hidden_size")
    return parts
