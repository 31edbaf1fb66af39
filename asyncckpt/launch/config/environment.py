"""Environment: what ``${VAR}`` in a configuration is, and that it is written into no file as anything else.

A variable may be a password, or a path that is another one on the next machine. So whatever is loaded remembers how its
texts were written, and a file that is made of it says the same.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from asyncckpt.errors import ConfigurationError

Place: TypeAlias = tuple[str | int, ...]
"""Where a value is: keys and indices."""

Written: TypeAlias = dict[tuple[Place, str], str]
"""For the text at a place, what has to be in a file so that it is read there."""

_VARIABLE = re.compile(
    r"(?<!\\)((?:\\\\)*)\$\{(?:([A-Z_][A-Z0-9_]*)(?::-([^}]*))?|oc\.env:\s*([^\s},]+)\s*(?:,\s*([^}]*?)\s*)?)\}"
)

_BRACE = re.compile(r"(?<!\\)(?:\\\\)*\$\{|\}")
"""The beginning of a reference, or an end."""


@dataclass(frozen=True, slots=True)
class Composed:
    """Values without a reference left, and how the texts in them were written."""

    values: dict[str, Any]
    written: Written


class Environment:
    """The variables that texts name. Each is a mark in its text until everything else is put together.

    So a value of the environment is never taken for a reference itself, and it is known which texts have one.
    """

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(4)
        self._mark = re.compile(rf"<{self._nonce}:(\d+)>")
        self._found: list[tuple[str, str]] = []
        """How each was written, and its value."""

    def hidden(self, value: Any, path: str = "") -> Any:
        """`value` with marks in its texts; raises `ConfigurationError` for a variable that is not set."""
        match value:
            case str():
                return _VARIABLE.sub(lambda found: self._hide(found, path), value)
            case Mapping():
                below = f"{path}." if path else ""
                return {key: self.hidden(item, f"{below}{key}") for key, item in value.items()}
            case list():
                return [self.hidden(item, f"{path}[{index}]") for index, item in enumerate(value)]
            case tuple():
                return tuple(self.hidden(item, f"{path}[{index}]") for index, item in enumerate(value))
        return value

    def revealed(self, values: dict[str, Any]) -> Composed:
        """`values` with the environment's for the marks."""
        written: Written = {}
        return Composed({key: self._reveal(item, (str(key),), written) for key, item in values.items()}, written)

    def _hide(self, found: re.Match[str], path: str) -> str:
        backslashes, name, otherwise, other_name, other_default = found.groups()
        name = name or other_name
        value = os.environ.get(name, otherwise if otherwise is not None else other_default)
        if value is None:
            raise ConfigurationError(
                f"{path} needs {name}, which is not set; write ${{{name}:-text}} to have a default"
            )
        half = backslashes[: len(backslashes) // 2]
        if _ends_within(found.string[: found.start()]):  # it is a part of where another reference leads
            return half + value
        self._found.append((found[0][len(backslashes) :], value))
        return f"{half}<{self._nonce}:{len(self._found) - 1}>"

    def _reveal(self, value: Any, place: Place, written: Written) -> Any:
        match value:
            case dict():
                return {key: self._reveal(item, (*place, str(key)), written) for key, item in value.items()}
            case list():
                return [self._reveal(item, (*place, index), written) for index, item in enumerate(value)]
            case str():
                *pieces, last = self._mark.split(value)
                texts, numbers = pieces[::2], [int(number) for number in pieces[1::2]]
                shown = "".join(t + self._found[n][1] for t, n in zip(texts, numbers, strict=True)) + last
                said = "".join(
                    _doubled(escaped(t)) + self._found[n][0] for t, n in zip(texts, numbers, strict=True)
                ) + escaped(last)
                if said != shown:
                    written[place, shown] = said
                return shown
        return value


def _ends_within(text: str) -> bool:
    """Whether `text` ends before a reference in it does."""
    depth = 0
    for brace in _BRACE.finditer(text):
        depth = max(0, depth - 1) if brace[0] == "}" else depth + 1
    return depth > 0


def escaped(text: str) -> str:
    """A text that is read as `text`, with no reference in it."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _doubled(text: str) -> str:
    """`text` for before a reference: backslashes there are read by twos."""
    bare = text.rstrip("\\")
    return bare + 2 * text[len(bare) :]


def as_written(plain: Any, written: Written, *, is_literal: bool, place: Place = ()) -> Any:
    """`plain` with its texts as they were `written`, where they are still the same.

    Of others, ``${`` means itself where `is_literal`, else it is a reference.
    """
    match plain:
        case dict():
            return {
                key: as_written(item, written, is_literal=is_literal, place=(*place, key))
                for key, item in plain.items()
            }
        case list():
            return [
                as_written(item, written, is_literal=is_literal, place=(*place, index))
                for index, item in enumerate(plain)
            ]
        case str():
            return written.get((place, plain)) or (escaped(plain) if is_literal else plain)
    return plain
