"""Manifest: what one checkpoint holds: every tensor as boxes of extents, every other value as JSON.

A manifest is immutable data, not the commit. It is a function of the ranks' reports, so that whoever
survives can build the same bytes. Extents name packs by index into the manifest's own table; a pack may
belong to an older checkpoint, which is how an unchanged tensor is shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, TypeAlias

from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format.sealed import Json, seal, unseal

Path: TypeAlias = tuple[str, ...]
"""Where a tensor stands in the state, one name per level: ``("optimizer", "state", "0", "exp_avg")``."""

EXTENT = 64 << 20
"""Most bytes of one extent: the unit of digests and of ranged reads."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack as manifests name it: `header` bytes and their digest come before the tensors' bytes."""

    key: str
    length: int
    header: int
    digest: str
    """Digest of the first `header` bytes; extents have their own."""
    rank: int = 0
    codec: str = "none"


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
        return sum([extent.length for box in self.boxes for extent in box.extents])


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


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything one checkpoint holds, and where."""

    run: str
    seq: int
    step: int
    inc: int
    nonce: str
    world: int
    contents: Contents
    code_version: str | None = None
    partial: tuple[str, ...] = ()
    """The parts of the state that are not in it, as the record says too."""

    def encode(self) -> bytes:
        """The manifest's one encoding."""
        return seal(
            {
                "run": self.run,
                "seq": self.seq,
                "step": self.step,
                "inc": self.inc,
                "nonce": self.nonce,
                "world": self.world,
                "code_version": self.code_version,
                **({"partial": list(self.partial)} if self.partial else {}),
                **contents_json(self.contents),
            }
        )


def decode(data: bytes | memoryview, what: str) -> Manifest:
    """Decode and check a manifest; raises `CheckpointCorruptError` or `UnsupportedFormat` naming `what`."""
    fields = unseal(data, what)
    try:
        manifest = Manifest(
            fields["run"],
            fields["seq"],
            fields["step"],
            fields["inc"],
            fields["nonce"],
            fields["world"],
            contents_of(fields),
            fields["code_version"],
            tuple(map(str, fields.get("partial", ()))),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointCorruptError(f"{what} lacks or misuses a field: {error!r}") from error
    check(manifest.contents, what)
    return manifest


def merge(parts: Iterable[Contents]) -> Contents:
    """The ranks' contents as one, packs renumbered; raises `ValueError` where two ranks name one path."""
    packs: list[Pack] = []
    tensors: dict[Path, TensorEntry] = {}
    aliases: dict[Path, Alias] = {}
    values: dict[str, Json] = {}
    for part in parts:
        shift = len(packs)
        packs += part.packs
        named = {**{path: _shifted(entry, shift) for path, entry in part.tensors.items()}}
        if clash := (named.keys() & tensors.keys()) | (part.values.keys() & values.keys()):
            raise ValueError(f"two ranks hold {sorted(map(str, clash))[0]}")
        tensors |= named
        aliases |= part.aliases
        values |= part.values
    return Contents(tuple(packs), tensors, aliases, values)


def _shifted(entry: TensorEntry, by: int) -> TensorEntry:
    if not by:
        return entry
    boxes = tuple(replace(box, extents=tuple(replace(e, pack=e.pack + by) for e in box.extents)) for box in entry.boxes)
    return replace(entry, boxes=boxes)


def check(contents: Contents, what: str) -> None:
    """Raise if an extent leaves its pack, boxes do not cover their tensor, or a codec is unknown."""
    for pack in contents.packs:
        if pack.codec != "none":
            raise UnsupportedFormat(f"{what}: pack {pack.key} uses codec {pack.codec!r}: upgrade asyncckpt")
    for path, entry in contents.tensors.items():
        _check_entry(path, entry, contents.packs, what)
    for path, alias in contents.aliases.items():
        if alias.of not in contents.tensors:
            raise CheckpointCorruptError(f"{what}: {'.'.join(path)} is an alias of nothing")


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


# -- JSON --------------------------------------------------------------------------------------------------


def contents_json(contents: Contents) -> dict[str, Json | bytes]:
    """`contents` as JSON fields for `seal`, paths as arrays in sorted order."""
    return {
        "packs": [
            {
                "key": p.key,
                "length": p.length,
                "header": p.header,
                "digest": p.digest,
                "rank": p.rank,
                "codec": p.codec,
            }
            for p in contents.packs
        ],
        "tensors": _encoded(contents.tensors),
        "aliases": [_alias_json(path, contents.aliases[path]) for path in sorted(contents.aliases)],
        "values": dict(contents.values),
    }


class EncodedTensors(dict[Path, TensorEntry]):
    """Tensors with their `encoding`, made when there was time for it; not changed any more."""

    def __init__(self, tensors: Mapping[Path, TensorEntry]) -> None:
        super().__init__(tensors)
        self.encoding = encode_tensors(tensors)


def _encoded(tensors: Mapping[Path, TensorEntry]) -> bytes:
    return tensors.encoding if isinstance(tensors, EncodedTensors) else encode_tensors(tensors)


def encode_tensors(tensors: Mapping[Path, TensorEntry]) -> bytes:
    """The canonical JSON of `tensors`, written out field by field.

    By way of dicts and lists 20,000 of them take 0.2 s instead of 0.07: what is made for each wakes the collector.
    """
    return f"[{','.join([_entry_text(path, tensors[path]) for path in sorted(tensors)])}]".encode("ascii")


def _entry_text(path: Path, entry: TensorEntry) -> str:
    boxes, names, shape = ",".join(map(_box_text, entry.boxes)), ",".join(map(_quoted, path)), _array(entry.shape)
    stride = "" if entry.stride is None else f',"stride":{_array(entry.stride)}'
    return f'{{"boxes":[{boxes}],"dtype":{_quoted(entry.dtype)},"path":[{names}],"shape":{shape}{stride}}}'


def _box_text(box: Box) -> str:
    extents = ",".join([f"[{e.pack},{e.offset},{e.length},{_quoted(e.digest)}]" for e in box.extents])
    return f'{{"extents":[{extents}],"offset":{_array(box.offset)},"shape":{_array(box.shape)}}}'


def _array(numbers: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def _alias_json(path: Path, alias: Alias) -> Json:
    return {
        "path": list(path),
        "of": list(alias.of),
        "dtype": alias.dtype,
        "shape": list(alias.shape),
        "stride": list(alias.stride),
        "offset": alias.offset,
    }


def contents_of(fields: Mapping[str, Any]) -> Contents:
    """The inverse of `contents_json`, sealed and parsed; raises KeyError, TypeError or ValueError on anything else."""
    packs = tuple(_pack(p) for p in fields["packs"])
    tensors = {_texts(t["path"]): _entry(t) for t in fields["tensors"]}
    aliases = {_texts(a["path"]): _alias(a) for a in fields["aliases"]}
    if len(tensors) != len(fields["tensors"]) or tensors.keys() & aliases.keys():
        raise ValueError("a path stands twice")
    if not isinstance(fields["values"], dict):
        raise TypeError("the values are no object")
    return Contents(packs, tensors, aliases, fields["values"])


def _pack(fields: Mapping[str, Any]) -> Pack:
    length, header, rank = _counts([fields["length"], fields["header"], fields["rank"]])
    key, digest, codec = _texts([fields["key"], fields["digest"], fields["codec"]])
    return Pack(key, length, header, digest, rank, codec)


def _entry(fields: Mapping[str, Any]) -> TensorEntry:
    boxes = tuple(Box(_counts(b["offset"]), _counts(b["shape"]), _extents(b["extents"])) for b in fields["boxes"])
    (dtype,), shape = _texts([fields["dtype"]]), _counts(fields["shape"])
    stride = None if fields.get("stride") is None else _counts(fields["stride"])
    if stride is not None and len(stride) != len(shape):
        raise ValueError(f"stride {stride} of shape {shape}")
    return TensorEntry(dtype, shape, boxes, stride)


def _extents(found: Sequence[Any]) -> tuple[Extent, ...]:
    return tuple(_extent(*fields) for fields in found)


def _extent(pack: Any, offset: Any, length: Any, digest: Any) -> Extent:
    pack, offset, length = _counts([pack, offset, length])
    return Extent(pack, offset, length, *_texts([digest]))


def _alias(fields: Mapping[str, Any]) -> Alias:
    (dtype,), (offset,) = _texts([fields["dtype"]]), _counts([fields["offset"]])
    return Alias(_texts(fields["of"]), dtype, _counts(fields["shape"]), _counts(fields["stride"]), offset)


def _counts(values: Sequence[Any]) -> tuple[int, ...]:
    """`values` if all are whole numbers from 0 on; anything else would only be met deep in the reading."""
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"{values!r} are no counts")
    return tuple(values)


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(type(value) is str for value in values):
        raise TypeError(f"{values!r} are no strings")
    return tuple(values)
