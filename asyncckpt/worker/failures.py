"""Failures: exceptions as JSON, so that one raised in another process is caught here by the same ``except``."""

from __future__ import annotations

import builtins
from typing import Any

from asyncckpt import errors
from asyncckpt.errors import AsyncCkptError
from asyncckpt.worker import reports, watermark

_CAUSES = 4
"""How many causes of causes come along."""

_HOMES = (errors, watermark, reports, builtins)
_PLAIN = (str, int, float, type(None))


def encode(error: BaseException, causes: int = _CAUSES) -> dict[str, Any]:
    """Class, arguments, plain attributes and cause of `error`."""
    fields: dict[str, Any] = {
        "class": type(error).__name__,
        "text": str(error),
        "args": list(error.args) if _is_plain(error.args) else None,
        "attributes": {name: value for name, value in vars(error).items() if _is_plain(value)},
    }
    if error.__cause__ is not None and causes:
        fields["cause"] = encode(error.__cause__, causes - 1)
    return fields


def decode(fields: dict[str, Any]) -> BaseException:
    """An equal exception; one whose class is not known here is an `AsyncCkptError` that names it."""
    error = _made(fields)
    for name, value in fields["attributes"].items():
        vars(error)[name] = tuple(value) if isinstance(value, list) else value
    if "cause" in fields:
        error.__cause__ = decode(fields["cause"])
    return error


def _made(fields: dict[str, Any]) -> BaseException:
    known = next((vars(home)[fields["class"]] for home in _HOMES if fields["class"] in vars(home)), None)
    if isinstance(known, type) and issubclass(known, BaseException) and fields["args"] is not None:
        try:
            return known(*fields["args"])
        except TypeError:
            pass  # it is made from more than its arguments
    return AsyncCkptError(f"{fields['class']}: {fields['text']}")


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(isinstance(item, _PLAIN) for item in value)
    return isinstance(value, _PLAIN)
