"""Scalars: single values as a number, a text, true or false, or one of several words.

A text that is a number is one, and so is the word for true or false: YAML and the environment know no better.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from enum import Enum
from typing import Any, TypeVar

from asyncckpt.errors import ConfigurationError

_Member = TypeVar("_Member", bound=Enum)


class Wrong(Exception):
    """A value is not what it has to be."""


def plain(value: Any) -> Any:
    """The number in a scalar of numpy or torch."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def scalar(kind: type, value: Any) -> Any:
    """The value as `kind`; raises `Wrong`."""
    if kind is bool or isinstance(value, bool):
        return _truth(kind, value)
    if kind is str:
        if isinstance(value, str | int | float):
            return str(value)
        if isinstance(value, date):
            return value.isoformat()
        raise Wrong(f"is {value!r}; it has to be a text")
    return _number(kind, value)


def _truth(kind: type, value: Any) -> bool:
    if kind is bool:
        if (word := str(value).lower()) in ("true", "false"):
            return word == "true"
        raise Wrong(f"is {value!r}; it has to be true or false")
    quoting = "; YAML takes yes, no, on and off for that: put them in quotes" if kind is str else ""
    raise Wrong(f"is {value!r}; it has to be a {'text' if kind is str else 'number'}{quoting}")


def _number(kind: type, value: Any) -> int | float:
    if isinstance(value, str | int | float):
        with suppress(ValueError, OverflowError):
            if kind is float:
                return float(value)
            if not isinstance(value, float):
                return int(value)
            if value.is_integer():
                return int(value)
    raise Wrong(f"is {value!r}; it has to be {'a whole number' if kind is int else 'a number'}")


def member(kind: type[_Member], given: object, name: str) -> _Member:
    """The member of `kind` that `given` is, or is the value of; raises `ConfigurationError` where it is neither."""
    try:
        return kind(given)
    except ValueError:
        words = ", ".join(str(each.value) for each in kind)
        raise ConfigurationError(f"{name}={given!r}: use {kind.__name__}, or one of {words}") from None
