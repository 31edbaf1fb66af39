"""Plain: a configuration of any kind as JSON that every reader takes, with secrets masked.

What JSON has no word for becomes a string that a person can read; what cannot be said at all (a function, an open
file) becomes the name of its type in angle brackets, and is reported by its path. Nothing in a configuration can stop
a training.
"""

from __future__ import annotations

import dataclasses
import math
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

MASK = "***"

_SECRET = re.compile(r"(^|[_\-.])(key|token|secret|password|passwd|passphrase|credentials?)$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NO_SECRET = re.compile(r"(^|_)(pad|eos|bos|unk|sep|cls|mask|sort|primary|foreign|group|image|text)_(token|key)$")
"""Words of language models and of tables that end like secrets."""
_IN_URL = re.compile(r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")


class Plain:
    """Turns one configuration into JSON; `odd` are the paths of what could not be said, `secrets` of what is masked."""

    def __init__(self, *, masked: bool = True) -> None:
        self._masked = masked
        self._above: list[int] = []
        self.odd: list[str] = []
        self.secrets: list[str] = []

    def of(self, value: Any, path: str = "") -> Json:
        """`value` as JSON."""
        if id(value) in self._above:
            self.odd.append(path)
            return "<cycle>"
        self._above.append(id(value))
        try:
            return self._of(value, path)
        finally:
            self._above.pop()

    def _of(self, value: Any, path: str) -> Json:
        match value:
            case Enum():  # before int and str, which an Enum may be as well
                return self.of(value.value, path)
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
            return {str(key): self._item(str(key), item, path) for key, item in mapping.items()}
        if (items := _items(value)) is not None:
            return [self.of(item, f"{path}[{index}]") for index, item in enumerate(items)]
        return self._leaf(value, path)

    def _item(self, key: str, value: Any, path: str) -> Json:
        path = f"{path}.{key}" if path else key
        if isinstance(value, str | bytes) and value and is_secret(key):
            self.secrets.append(path)
            if self._masked:
                return MASK
        return self.of(value, path)

    def _text(self, text: str, path: str) -> str:
        text = str(text)
        if _IN_URL.search(text):
            self.secrets.append(path)
            text = _IN_URL.sub(MASK, text) if self._masked else text
        return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates are no JSON that all readers take

    def _leaf(self, value: Any, path: str) -> Json:
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
            return self.of(value.tolist(), path)
        self.odd.append(path)
        return f"<{kind.__module__}.{kind.__qualname__}>"


def is_secret(key: str) -> bool:
    """Whether a text under this name is one that nobody should read."""
    word = _CAMEL.sub("_", key)
    return _SECRET.search(word) is not None and _NO_SECRET.search(word.lower()) is None


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
    if isinstance(value, set | frozenset):
        return sorted(value, key=lambda item: (type(item).__name__, repr(item)))
    return None
