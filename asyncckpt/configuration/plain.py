"""Plain: values of any kind as JSON that every reader takes, with secrets masked.

What JSON has no word for becomes a string that a person can read; what cannot be said at all (a function, an open
file) becomes the name of its type in angle brackets, and is reported by its path. Nothing in a configuration can stop
a training.
"""

from __future__ import annotations

import dataclasses
import json
import math
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeAlias

from asyncckpt.configuration.masking import MASK, is_secret, without_logins

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


class Plain:
    """Turns one configuration into JSON; `odd` are the paths of what could not be said, `secrets` of what is masked."""

    def __init__(self, *, masked: bool = True) -> None:
        self._masked = masked
        self._above: list[int] = []
        self.odd: list[str] = []
        self.secrets: list[str] = []

    @property
    def complaints(self) -> tuple[str, ...]:
        """What a person should know of it."""
        return complaints_of(self.odd)

    def of(self, value: Any, path: str = "", name: str = "") -> Json:
        """`value` as JSON; by its `name`, what it is called, it may be a secret, and so may be what a list has."""
        if name and is_secret(name, value):
            self.secrets.append(path)
            if self._masked:
                return MASK
        if id(value) in self._above:
            self.odd.append(path)
            return "<cycle>"
        self._above.append(id(value))
        try:
            return self._of(value, path, name)
        finally:
            self._above.pop()

    def text(self, value: Any, path: str = "", name: str = "", indent: str = "\n") -> Iterator[str]:
        """`of` as JSON text, piece by piece, with an indent of two spaces: beside `value` it takes no memory.

        An iterator in it is an array, of which one item is there at a time.
        """
        if isinstance(value, str | int | float | None):  # most are
            yield json.dumps(self.of(value, path, name), ensure_ascii=False)
            return
        items = value if isinstance(value, Iterator) else _items(value)
        mapping = None if isinstance(value, str | Enum) or items is not None else _mapping(value)
        if (items is None and mapping is None) or id(value) in self._above or (name and is_secret(name, value)):
            yield json.dumps(self.of(value, path, name), ensure_ascii=False)
            return
        self._above.append(id(value))
        inner = indent + "  "
        pieces = (
            self._array(items, path, name, inner) if items is not None else self._object(mapping or {}, path, inner)
        )
        opening, closing = "[]" if items is not None else "{}"
        first = next(pieces, None)
        yield opening if first is None else f"{opening}{inner}{first}"
        yield from pieces
        yield closing if first is None else f"{indent}{closing}"
        self._above.pop()

    def _array(self, items: Iterable[Any], path: str, name: str, indent: str) -> Iterator[str]:
        for index, item in enumerate(items):
            pieces = self.text(item, f"{path}[{index}]", name, indent)
            yield (f",{indent}" if index else "") + next(pieces)
            yield from pieces

    def _object(self, mapping: Mapping[Any, Any], path: str, indent: str) -> Iterator[str]:
        for number, (key, item) in enumerate(mapping.items()):
            name, below = str(key), _below(path, key)
            label = (f",{indent}" if number else "") + json.dumps(self._text(name, below), ensure_ascii=False) + ": "
            pieces = self.text(item, below, name, indent)
            yield label + next(pieces)
            yield from pieces

    def _of(self, value: Any, path: str, name: str) -> Json:
        match value:
            case Enum():  # before int and str, which an Enum may be as well
                return self.of(value.value, path, name)
            case None | bool():
                return value
            case int():
                return int(value)
            case float():
                return _finite(float(value))
            case str():
                return self._text(value, path)
        mapping = _mapping(value)
        if mapping is not None:
            of = ((str(key), _below(path, key), item) for key, item in mapping.items())
            return {self._text(key, below): self.of(item, below, key) for key, below, item in of}
        if (items := _items(value)) is not None:
            return [self.of(item, f"{path}[{index}]", name) for index, item in enumerate(items)]
        return self._leaf(value, path, name)

    def _text(self, text: str, path: str) -> str:
        text = str(text)
        if (masked := without_logins(text)) != text:
            self.secrets.append(path)
            text = masked if self._masked else text
        return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates are no JSON that all readers take

    def _leaf(self, value: Any, path: str, name: str) -> Json:
        match value:
            case PurePath():
                return self._text(str(value), path)
            case date() | time():
                return value.isoformat()
            case timedelta():
                return value.total_seconds()
            case bytes() | bytearray():
                return value.hex()
            case type():
                return f"{value.__module__}.{value.__qualname__}"
        kind = type(value)
        if kind is complex or (kind.__module__ == "torch" and kind.__name__ in ("dtype", "device")):
            return str(value)
        if hasattr(value, "tolist") and hasattr(value, "size"):  # arrays, tensors and their scalars
            return self.of(value.tolist(), path, name)
        self.odd.append(path)
        return f"<{kind.__module__}.{kind.__qualname__}>"


def is_object(value: Any) -> bool:
    """Whether `value` becomes an object of JSON."""
    return not isinstance(value, str | Enum) and _mapping(value) is not None


def masked(values: Any) -> dict[str, Json]:
    """`values`, a mapping, as JSON with secrets masked; anything else under ``value``."""
    found = Plain().of(values)
    return found if isinstance(found, dict) else {"value": found}


def few(paths: Sequence[str]) -> str:
    """The first of `paths`, and how many more there are."""
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def complaints_of(odd: Sequence[str]) -> tuple[str, ...]:
    """What a person should know of a configuration that had something `odd` at these paths."""
    said = f"the configuration holds what JSON cannot say, and names its type instead: {few(odd)}"
    return (said,) if odd else ()


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _finite(value: float) -> float | str:
    """JSON has no NaN and no infinity, and readers that are strict refuse the whole file for one."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Namespace):
        return vars(value)
    if hasattr(value, "model_dump") and not isinstance(value, type):  # pydantic, which is imported where this is true
        dumped: Mapping[Any, Any] = value.model_dump()
        return dumped
    return None


def _items(value: Any) -> Iterable[Any] | None:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return value
    if isinstance(value, set | frozenset):
        return sorted(value, key=lambda item: (type(item).__name__, repr(item)))
    return None
