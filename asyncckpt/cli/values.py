"""Values: what a manifest holds besides tensors, as short text, read without torch.

Nothing is turned back into the object it was: its class may be missing here, and looking at a checkpoint must not
need the code that wrote it. The tags are those of ``asyncckpt.state.values``; an unknown one is shown as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asyncckpt.format.manifest import Path
from asyncckpt.format.sealed import Json, canonical

SHARED = "state"
"""The scope that stands in no path: ``asyncckpt.restoring.SHARED``, which would bring torch along."""

LONGEST = 60
"""Characters of one value."""

_SHOWN_ITEMS = 6
_BRACKETS = {"$list": "[]", "$tuple": "()", "$set": "{}", "$frozenset": "{}", "$deque": "[]", "$size": "()"}
_PAIRS = {"$dict", "$counter", "$odict", "$defaultdict"}
_FIELDS = {"$namedtuple", "$dataclass"}


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it stands; a short sequence of plain ones is one value."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path joined by dots."""
        return ".".join(self.path)

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"name": self.name, "text": self.text}


def values(scopes: Mapping[str, Json]) -> Iterator[Value]:
    """Every value of a manifest that is no tensor; those of a rank's own begin with ``rank-0``."""
    for scope, data in scopes.items():
        for name, part in _parts(*_tagged(data)) or ():
            yield from _below(part, (name,) if scope == SHARED else (scope, name))


def _below(data: Json, path: Path) -> Iterator[Value]:
    tag, content = _tagged(data)
    if tag == "$tensor" or (tag == "$array" and isinstance(content, dict)):
        return
    parts = _parts(tag, content)
    if parts is None:
        yield Value(path, _leaf(tag, content))
    elif tag in _BRACKETS and all(_is_leaf(item) for _, item in parts):
        yield Value(path, _sequence(_BRACKETS[tag], [item for _, item in parts]))
    elif not parts:
        yield Value(path, "{}")
    else:
        for name, item in parts:
            yield from _below(item, (*path, name))


def _tagged(data: Json) -> tuple[str, Any]:
    """`data` as tag and content; a plain dict is a ``$dict``, whatever else stands for itself has no tag."""
    if isinstance(data, list):
        return "$list", data
    if not isinstance(data, dict):
        return "", data
    if len(data) == 1 and (tag := next(iter(data))).startswith("$"):
        return tag, data[tag]
    return "$dict", [[key, value] for key, value in data.items()]


def _parts(tag: str, content: Any) -> list[tuple[str, Json]] | None:
    """The parts of a container with their names, or None where this is none."""
    if tag in _BRACKETS:
        return [(str(index), item) for index, item in enumerate(content[0] if tag == "$deque" else content)]
    if tag in _PAIRS:
        pairs = content[0] if tag == "$odict" else content[1] if tag == "$defaultdict" else content
        return [(key if isinstance(key, str) else canonical(key).decode(), item) for key, item in pairs]
    if tag in _FIELDS:
        fields = content[1]
        return list(fields.items() if isinstance(fields, dict) else ((str(i), item) for i, item in enumerate(fields)))
    return None


def _is_leaf(data: Json) -> bool:
    tag, content = _tagged(data)
    return tag not in ("$tensor", "$array") and _parts(tag, content) is None


def _leaf(tag: str, content: Any) -> str:
    if not tag:
        return _cut(repr(content))
    if tag in ("$float", "$int"):
        return _cut(content)
    parts = content if isinstance(content, list) else [content]
    return f"{tag[1:]}({_cut(', '.join(map(str, parts)))})"


def _sequence(brackets: str, items: list[Json]) -> str:
    shown = [_leaf(*_tagged(item)) for item in items[:_SHOWN_ITEMS]]
    more = [f"... {len(items)} in all"] if len(items) > _SHOWN_ITEMS else []
    return brackets[0] + ", ".join(shown + more) + brackets[1]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
