"""Contents: the tensors, aliases and values of one rank or of a whole checkpoint, and the packs that they lie in.

Extents name packs by index into the table of packs beside them; a pack may belong to an older checkpoint, which is how
an unchanged tensor is shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format.codec import Codec, codec_of
from asyncckpt.format.frames import Frames
from asyncckpt.format.sealed import Json

Path: TypeAlias = tuple[str, ...]
"""Where a tensor stands in the state, one name per level: ``("optimizer", "state", "0", "exp_avg")``."""

EXTENT = 64 << 20
"""Most bytes of one extent: the unit of digests and of ranged reads."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack as manifests name it: `header` bytes and their digest come before the tensors' bytes.

    Lengths and offsets count its plain bytes, whatever `codec` it is stored with.
    """

    key: str
    length: int
    header: int
    digest: str
    """Digest of the first `header` bytes; extents have their own."""
    rank: int = 0
    codec: str = "none"
    frames: Frames | None = None
    """How it is stored, where that is not as it is."""

    @property
    def stored(self) -> int:
        """Bytes of the object in the store."""
        return self.length if self.frames is None else self.frames.length


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes ``[offset, offset + length)`` of pack number `pack`, and their digest."""

    pack: int
    offset: int
    length: int
    digest: str


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangular part of a tensor: where it starts, its shape, and the extents that hold it in order."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: its logical dtype, its global shape, and the boxes that cover it without overlap.

    `stride` (in elements) is set when the tensor's memory was dense but not in row-major order; its bytes in
    the pack are row-major all the same, so that any tool reads them.
    """

    dtype: str
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]
    stride: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        total = 0
        for box in self.boxes:
            for extent in box.extents:
                total += extent.length
        return total


@dataclass(frozen=True, slots=True)
class Alias:
    """A tensor that shares memory with another entry: a tied weight or a view of `of`.

    `offset` is in bytes from the start of the other's bytes, `stride` in elements of `dtype`.
    """

    of: Path
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Contents:
    """Tensors, aliases and values of one rank or of a whole checkpoint."""

    packs: tuple[Pack, ...]
    tensors: Mapping[Path, TensorEntry]
    aliases: Mapping[Path, Alias]
    values: Mapping[str, Json] = field(default_factory=dict)
    hidden: str = "none"
    """The codec that documents hide all of it with but the packs; ``none`` where everybody may read it."""


def merge(parts: Iterable[Contents]) -> Contents:
    """The ranks' contents as one, packs renumbered; raises `ValueError` where two ranks name one path."""
    packs: list[Pack] = []
    tensors: dict[Path, TensorEntry] = {}
    aliases: dict[Path, Alias] = {}
    values: dict[str, Json] = {}
    hidden = "none"
    for part in parts:
        shift = len(packs)
        packs += part.packs
        named = {**{path: _shifted(entry, shift) for path, entry in part.tensors.items()}}
        if clash := (named.keys() & tensors.keys()) | (part.values.keys() & values.keys()):
            raise ValueError(f"two ranks hold {sorted(map(str, clash))[0]}")
        tensors |= named
        aliases |= part.aliases
        values |= part.values
        hidden = part.hidden  # ranks are given the same policy
    return Contents(tuple(packs), tensors, aliases, values, hidden)


def _shifted(entry: TensorEntry, by: int) -> TensorEntry:
    if not by:
        return entry
    boxes = tuple(replace(box, extents=tuple(replace(e, pack=e.pack + by) for e in box.extents)) for box in entry.boxes)
    return replace(entry, boxes=boxes)


def check(contents: Contents, what: str) -> None:
    """Raise if an extent leaves its pack, boxes do not cover their tensor, or a codec is unknown."""
    for pack in contents.packs:
        if _codec(pack, what).is_plain != (pack.frames is None):
            raise CheckpointCorruptError(f"{what}: pack {pack.key} has codec {pack.codec!r}, which its frames belie")
    for path, entry in contents.tensors.items():
        _check_entry(path, entry, contents.packs, what)
    for path, alias in contents.aliases.items():
        if alias.of not in contents.tensors:
            raise CheckpointCorruptError(f"{what}: {'.'.join(path)} is an alias of nothing")


def _codec(pack: Pack, what: str) -> Codec:
    try:
        return codec_of(pack.codec)
    except ValueError:
        raise UnsupportedFormat(f"{what}: pack {pack.key} uses codec {pack.codec!r}: upgrade asyncckpt") from None


def _check_entry(path: Path, entry: TensorEntry, packs: tuple[Pack, ...], what: str) -> None:
    for box in entry.boxes:
        for extent in box.extents:
            inside = 0 <= extent.pack < len(packs) and 0 < extent.length <= EXTENT
            if not inside or not 0 <= extent.offset <= packs[extent.pack].length - extent.length:
                raise CheckpointCorruptError(f"{what}: {'.'.join(path)} lies outside of its pack")
    if sum(_count(box.shape) for box in entry.boxes) != _count(entry.shape):
        raise CheckpointCorruptError(f"{what}: the parts of {'.'.join(path)} do not cover it")


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
