"""Contrast: what differs between two checkpoints, tensor by tensor, from their manifests alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from asyncckpt.checkpoints.diffing import Changes, Diff, compared
from asyncckpt.checkpoints.listing import CheckpointInfo
from asyncckpt.format.manifest import Manifest
from asyncckpt.inspection.contents import Contents, Tensor
from asyncckpt.serve import asked
from asyncckpt.serve.holding import found_in, masked
from asyncckpt.serve.shelf import Shelf

Kind = Literal["changed", "added", "removed"]


@dataclass(frozen=True)
class Change:
    """One tensor that is not the same in both: what it was and what it is, for people."""

    kind: Kind
    name: str
    before: Tensor | None
    after: Tensor | None

    @property
    def bytes(self) -> int:
        """The larger of its sizes."""
        return max(each.nbytes for each in (self.before, self.after) if each is not None)


@dataclass(frozen=True)
class Altered:
    """One value that is no tensor and is not the same in both."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Part:
    """One component: how many of its tensors changed, came and went, and how many are the same."""

    name: str
    changed: int
    added: int
    removed: int
    same: int
    bytes: int


@dataclass(frozen=True)
class Side:
    """One of the two."""

    name: str
    info: CheckpointInfo


@dataclass(frozen=True)
class Contrast:
    """`changes` are those whose names have what was asked for in them; all else is of the whole."""

    diff: Diff
    a: Side
    b: Side
    changes: Sequence[Change]
    values: Sequence[Altered]
    parts: Sequence[Part]


def contrast(shelf: Shelf, a: str, b: str, *, part: str = "") -> Contrast:
    """What has changed from `a` to `b`, each ``RUN@WHICH``. Raises `BadRequest`, and what reading them raises."""
    one, first = _read(shelf, a)
    other, second = _read(shelf, b)
    diff = compared(one.info, first.contents, other.info, second.contents)
    before, after = _by_name(first), _by_name(second)
    changes = list(_changes(diff.tensors, before, after))
    return Contrast(
        diff=diff,
        a=one,
        b=other,
        changes=[change for change in changes if part in change.name],
        values=_altered(diff.values, first, second),
        parts=_parts(changes, before, after),
    )


def _read(shelf: Shelf, said: str) -> tuple[Side, Manifest]:
    name, which = asked.checkpoint(said)
    volume = shelf.volume(name)
    view = volume.fresh.now().value
    checkpoint = found_in(view, which)
    return Side(name, view.summaries[checkpoint.seq].info), volume.manifest(checkpoint)


def _by_name(manifest: Manifest) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in Contents(manifest).tensors()}


def _changes(changes: Changes, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Sequence[Change]:
    named: dict[Kind, Sequence[str]] = {"changed": changes.changed, "added": changes.added, "removed": changes.removed}
    found = [Change(kind, name, before.get(name), after.get(name)) for kind, names in named.items() for name in names]
    return sorted(found, key=lambda change: change.name)


def _altered(changes: Changes, first: Manifest, second: Manifest) -> list[Altered]:
    before = {value.name: value.text for value in masked(Contents(first).values())}
    after = {value.name: value.text for value in masked(Contents(second).values())}
    names = sorted((*changes.changed, *changes.added, *changes.removed))
    return [Altered(name, _said(before, name), _said(after, name)) for name in names]


def _said(values: Mapping[str, str], name: str) -> str:
    """The value of that name, or what it stands in: a short sequence is shown as one value."""
    while name not in values and "." in name:
        name = name.rpartition(".")[0]
    return values.get(name, "")


def _parts(changes: Sequence[Change], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Part]:
    """By the first part of the names."""
    by_name = {change.name: change.kind for change in changes}
    found: dict[str, list[int]] = {}
    kinds = ("changed", "added", "removed", "same")
    for name in sorted({*before, *after}):
        counts = found.setdefault(name.partition(".")[0], [0] * 5)
        counts[kinds.index(by_name.get(name, "same"))] += 1
        counts[4] += max(each.nbytes for each in (before.get(name), after.get(name)) if each is not None)
    return [Part(name, *counts) for name, counts in found.items()]
