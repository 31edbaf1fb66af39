"""Tagged: the JSON of a state's values taken apart, without turning anything back into the object it was.

The tags are those of ``asyncckpt.state.values``, which needs torch; an unknown one is no container.
"""

from __future__ import annotations

from typing import Any

from asyncckpt.format.sealed import Json, canonical

SHARED = "state"
"""The scope that stands in no path: ``asyncckpt.restores.restoring.SHARED``, which would bring torch along."""

BRACKETS = {"$list": "[]", "$tuple": "()", "$set": "{}", "$frozenset": "{}", "$deque": "[]", "$size": "()"}
_PAIRS = {"$dict", "$counter", "$odict", "$defaultdict"}
_FIELDS = {"$namedtuple", "$dataclass"}


def tagged(data: Json) -> tuple[str, Any]:
    """`data` as tag and content; a plain dict is a ``$dict``, whatever else stands for itself has no tag."""
    if isinstance(data, list):
        return "$list", data
    if not isinstance(data, dict):
        return "", data
    if len(data) == 1 and (tag := next(iter(data))).startswith("$"):
        return tag, data[tag]
    return "$dict", [[key, value] for key, value in data.items()]


def parts(tag: str, content: Any) -> list[tuple[str, Json]] | None:
    """The parts of a container with their names, or None where this is none."""
    if tag in BRACKETS:
        return [(str(index), item) for index, item in enumerate(content[0] if tag == "$deque" else content)]
    if tag in _PAIRS:
        pairs = content[0] if tag == "$odict" else content[1] if tag == "$defaultdict" else content
        return [(key if isinstance(key, str) else canonical(key).decode(), item) for key, item in pairs]
    if tag in _FIELDS:
        fields = content[1]
        return list(fields.items() if isinstance(fields, dict) else ((str(i), item) for i, item in enumerate(fields)))
    return None


def is_tensor(tag: str, content: Any) -> bool:
    """Whether a value's bytes are among the tensors."""
    return tag == "$tensor" or (tag == "$array" and isinstance(content, dict))
