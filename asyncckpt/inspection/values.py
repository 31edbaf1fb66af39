"""Values: what a manifest holds besides tensors, as short text, read without torch.

Nothing is turned back into the object it was: its class may be missing here, and looking at a checkpoint must not
need the code that wrote it. The tags are those of ``asyncckpt.state.values``; an unknown one is shown as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asyncckpt.format.contents import Path
from asyncckpt.format.sealed import Json
from asyncckpt.format.tagged import BRACKETS, SHARED, is_tensor, parts, tagged

LONGEST = 60
"""Characters of one value."""

_SHOWN_ITEMS = 6


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
        for name, part in parts(*tagged(data)) or ():
            yield from _below(part, (name,) if scope == SHARED else (scope, name))


def _below(data: Json, path: Path) -> Iterator[Value]:
    tag, content = tagged(data)
    if is_tensor(tag, content):
        return
    within = parts(tag, content)
    if within is None:
        yield Value(path, _leaf(tag, content))
    elif tag in BRACKETS and all(_is_leaf(item) for _, item in within):
        yield Value(path, _sequence(BRACKETS[tag], [item for _, item in within]))
    elif not within:
        yield Value(path, "{}")
    else:
        for name, item in within:
            yield from _below(item, (*path, name))


def _is_leaf(data: Json) -> bool:
    tag, content = tagged(data)
    return tag not in ("$tensor", "$array") and parts(tag, content) is None


def _leaf(tag: str, content: Any) -> str:
    if not tag:
        return _cut(repr(content))
    if tag in ("$float", "$int"):
        return _cut(content)
    items = content if isinstance(content, list) else [content]
    return f"{tag[1:]}({_cut(', '.join(map(str, items)))})"


def _sequence(brackets: str, items: list[Json]) -> str:
    shown = [_leaf(*tagged(item)) for item in items[:_SHOWN_ITEMS]]
    more = [f"... {len(items)} in all"] if len(items) > _SHOWN_ITEMS else []
    return brackets[0] + ", ".join(shown + more) + brackets[1]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
