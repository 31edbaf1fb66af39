"""Diffing: what differs between two checkpoints, from their manifests alone: no byte of a tensor is read.

Two tensors are the same if their dtypes, shapes and digests are. The digests are those that a restore checks, so this
says what the manifests say; whether the bytes are what they say, ``asyncckpt verify`` finds out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from asyncckpt.checkpoints.catalog import ATTEMPTS, Catalog
from asyncckpt.checkpoints.listing import CheckpointInfo, Which, which_of
from asyncckpt.errors import CheckpointCorruptError, RunContended
from asyncckpt.format.contents import Contents, Path, TensorEntry
from asyncckpt.format.sealed import Json
from asyncckpt.format.tagged import SHARED, is_tensor, parts, tagged
from asyncckpt.storage import opened
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import bounded_reading
from asyncckpt.storage.stopped import unheld

Root: TypeAlias = str | os.PathLike[str] | Storage

_Form: TypeAlias = tuple[Any, ...]
"""All that tells a tensor from another: equal forms are equal tensors."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Names that are in both and differ, in the second only, and in the first only; each sorted."""

    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.removed)

    def json(self) -> dict[str, list[str]]:
        """As one JSON object."""
        return {"changed": [*self.changed], "added": [*self.added], "removed": [*self.removed]}


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between checkpoint `a` and checkpoint `b`, of `tensors` and of other `values`."""

    a: CheckpointInfo
    b: CheckpointInfo
    tensors: Changes
    values: Changes
    """Everything that is no tensor: hyperparameters, schedules, counters, random states."""
    same: int
    """Bytes of the tensors that are the same in both."""
    total: int
    """Bytes of the tensors of either, each name counted once, with the larger of its sizes."""
    identical: bool
    """Whether the two hold the same state, down to the last value and its type."""

    @property
    def similarity(self) -> float:
        """`same` as a part of `total`: 1.0 where no tensor differs."""
        return self.same / self.total if self.total else 1.0

    def json(self) -> dict[str, Any]:
        """As one JSON object: sizes in bytes."""
        return {
            "a": self.a.id,
            "b": self.b.id,
            "identical": self.identical,
            "similarity": self.similarity,
            "same": self.same,
            "total": self.total,
            "tensors": self.tensors.json(),
            "values": self.values.json(),
        }


def diff(
    root: Root,
    a: Which,
    b: Which = "latest",
    *,
    other: Root | None = None,
    storage_options: Mapping[str, Any] | None = None,
    other_options: Mapping[str, Any] | None = None,
) -> Diff:
    """What has changed from checkpoint `a` of `root` to checkpoint `b` of it, or of the root `other`.

    `a` and `b` are "latest", "best", a step (int), or an id or a tag (str). `storage_options` are those of `root`, and
    `other_options` those of `other`. Raises `CheckpointNotFoundError`, `CheckpointCorruptError` for a damaged manifest,
    and `StorageError`; of a disk that hangs nothing is waited for that has not gone on for a minute (`TransientError`).
    Writes nothing.
    """

    async def act() -> Diff:
        first = await _read(root, a, storage_options)
        second = await _read(*(root, b, storage_options) if other is None else (other, b, other_options))
        return compared(*first, *second)

    return unheld(act(), "asyncckpt-diff")


async def _read(root: Root, which: Which, options: Mapping[str, Any] | None) -> tuple[CheckpointInfo, Contents]:
    storage = bounded_reading(opened(root, options))
    try:
        return await contents_of(Catalog(storage), which_of(which))
    finally:
        if isinstance(root, str | os.PathLike):
            await storage.aclose()


async def contents_of(catalog: Catalog, which: Which) -> tuple[CheckpointInfo, Contents]:
    """What the checkpoint that `which` names holds; "latest" and "best" follow a writer that overtakes the reader."""
    for _ in range(ATTEMPTS):
        checkpoint, info = await catalog.named(which)
        try:
            return info, (await catalog.manifest(checkpoint)).contents
        except CheckpointCorruptError:
            if await catalog.is_listed(checkpoint):
                raise
    raise RunContended(f"{catalog.storage.url}: retention was faster {ATTEMPTS} times: try again, or keep more")


def compared(a: CheckpointInfo, of_a: Contents, b: CheckpointInfo, of_b: Contents) -> Diff:
    """What differs between two checkpoints that hold these."""
    first, second = _forms(of_a), _forms(of_b)
    same = total = 0
    for path in first.keys() | second.keys():
        size = max(_size(of_a, path), _size(of_b, path))
        total += size
        same += size if first.get(path) == second.get(path) else 0
    tensors = _changes(first, second)
    values = _changes(dict(_values(of_a.values)), dict(_values(of_b.values)))
    return Diff(a, b, tensors, values, same, total, not tensors and of_a.values == of_b.values)


def _changes(first: Mapping[Path, Any], second: Mapping[Path, Any]) -> Changes:
    both = first.keys() & second.keys()
    return Changes(
        changed=_names(path for path in both if first[path] != second[path]),
        added=_names(second.keys() - first.keys()),
        removed=_names(first.keys() - second.keys()),
    )


def _names(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(".".join(path) for path in sorted(paths))


def _size(contents: Contents, path: Path) -> int:
    entry = contents.tensors.get(path)
    return 0 if entry is None else entry.nbytes


def _forms(contents: Contents) -> dict[Path, _Form]:
    """The form of each tensor. One that is another name of a whole tensor is what it would be by itself."""
    found = {path: _form(entry) for path, entry in contents.tensors.items()}
    for path, alias in contents.aliases.items():
        base = contents.tensors[alias.of]
        stride = _row_major(base.shape) if base.stride is None else base.stride
        if (alias.dtype, alias.shape, alias.stride) == (base.dtype, base.shape, stride):  # of one memory: all of it
            found[path] = _form(base)
        else:
            found[path] = (alias.dtype, alias.shape, _content(base), alias.offset, alias.stride)
    return found


def _form(entry: TensorEntry) -> _Form:
    # The order of its memory is left out: bytes in packs are row-major whatever that was.
    return entry.dtype, entry.shape, _content(entry)


def _content(entry: TensorEntry) -> tuple[tuple[str, int], ...]:
    boxes = sorted(entry.boxes, key=lambda box: box.offset)
    return tuple((extent.digest, extent.length) for box in boxes for extent in box.extents)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _values(scopes: Mapping[str, Json]) -> Iterator[tuple[Path, Json]]:
    for scope, data in scopes.items():
        yield from _below(data, () if scope == SHARED else (scope,))


def _below(data: Json, path: Path) -> Iterator[tuple[Path, Json]]:
    tag, content = tagged(data)
    if is_tensor(tag, content):
        return
    within = parts(tag, content)
    if within:
        for name, item in within:
            yield from _below(item, (*path, name))
    else:
        yield path, data
