"""Reference: the checkpoint that ``checkpoint.resume`` in a configuration means.

It is a word (``true``, ``latest``, ``best``), a step, or a path or URL: of the run's own root, of one of its
checkpoints by any name that it has there, or of another root, from whose checkpoint a new run starts.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from asyncckpt.checkpoints.listing import Which
from asyncckpt.format.names import directory_of

_BY_STEP = re.compile(r"checkpoint-epoch\d+-step(\d+)|checkpoint_step_(\d+)(?:\.pt)?|checkpoint-(\d+)|step[-_](\d+)")
_WORD = re.compile(r"(?:checkpoint[_-])?(latest|best)(?:[_-]checkpoint)?(?:\.pt|\.ckpt)?")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True, slots=True)
class Reference:
    """Checkpoint `which` of the run's own root, or of `root` where that is another."""

    said: str
    which: Which = "latest"
    root: str | None = None


def reference(value: Any, own: str) -> Reference | None:
    """What `value` of the configuration means to a run in `own`; None where it says not to resume.

    Raises `ValueError` for what names no checkpoint.
    """
    match value:
        case None | False | "":
            return None
        case True:
            return Reference("true")
        case int():
            return Reference(str(value), value)
        case str():
            return _of_text(value, own)
    raise ValueError(f"checkpoint.resume is {value!r}: use true, latest, best, a step, or a path or URL")


def _of_text(text: str, own: str) -> Reference:
    if (word := _word(text.lower())) is not None:
        return Reference(text, word)
    place, at, name = text.rpartition("@")
    if not at or "/" in name:
        place, name = text, ""
    inside = _below(place, own)
    if inside is None:
        return Reference(text, _which(name, text), place)
    if inside and name:
        raise ValueError(f"checkpoint.resume is {text!r}: it names a checkpoint twice")
    return Reference(text, _which(name or inside, text))


def _word(text: str) -> Which | None:
    return "latest" if text in ("true", "yes", "auto", "latest") else "best" if text == "best" else None


def _below(place: str, own: str) -> str | None:
    """The path of `place` below the run's root, empty for that itself; None where it lies elsewhere."""
    if not _SCHEME.match(own) and not _SCHEME.match(place):
        place, own = os.path.abspath(os.path.expanduser(place)), os.path.abspath(own)
        if place != own and os.path.realpath(place) == os.path.realpath(own):
            place = own
        place, own = place.replace(os.sep, "/"), own.replace(os.sep, "/")
    place, own = place.rstrip("/"), own.rstrip("/")
    return "" if place == own else place.removeprefix(f"{own}/") if place.startswith(f"{own}/") else None


def _which(name: str, text: str) -> Which:
    """The checkpoint that a name in a root means."""
    if not name:
        return "latest"
    if (directory := directory_of(f"{name}/manifest.json")) is not None:
        return f"{directory.seq:08d}"
    last = name.rpartition("/")[2]
    if found := _BY_STEP.fullmatch(last):
        return int(next(group for group in found.groups() if group))
    if found := _WORD.fullmatch(last):
        return found[1]
    if "/" not in name and (last.isdecimal() or not re.search(r"[\\.]", last)):
        return last  # an id, or a tag
    raise ValueError(
        f"checkpoint.resume is {text!r}, and {name!r} names no checkpoint of that run: use its path alone for the "
        "latest, or path@best, path@ID, or .../checkpoint-epoch1-step1000"
    )
