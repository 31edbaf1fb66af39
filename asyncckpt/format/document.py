"""Document: contents as the JSON fields of a manifest or a report, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from asyncckpt.format import HIDDEN
from asyncckpt.format.codec import codec_of
from asyncckpt.format.contents import Alias, Box, Contents, Extent, Pack, Path, TensorEntry
from asyncckpt.format.frames import frames_json, frames_of
from asyncckpt.format.hidden import hide, reveal
from asyncckpt.format.sealed import Json, canonical, canonical_object, seal


def contents_json(contents: Contents) -> dict[str, Json | bytes]:
    """`contents` as JSON fields for `seal`, paths as arrays in sorted order."""
    return {
        "packs": _packs_json(contents.packs),
        "tensors": _encoded(contents.tensors),
        "aliases": [_alias_json(path, contents.aliases[path]) for path in sorted(contents.aliases)],
        "values": dict(contents.values),
    }


def _packs_json(packs: Iterable[Pack]) -> Json:
    return [
        {
            "key": p.key,
            "length": p.length,
            "header": p.header,
            "digest": p.digest,
            "rank": p.rank,
            "codec": p.codec,
            **({} if p.frames is None else {"frames": frames_json(p.frames)}),
        }
        for p in packs
    ]


def document(about: Mapping[str, Json], contents: Contents) -> bytes:
    """The one encoding of a document that says `about` of itself, and holds `contents`.

    Where they are hidden only the packs can be read, without the digests of their headers: a header is the names and
    shapes of its tensors, and a known architecture could be told by it. What is hidden is bound to all that is not.
    """
    fields = contents_json(contents)
    codec = codec_of(contents.hidden)
    if codec.key is None:
        return seal({**about, **fields})
    clear: dict[str, Json | bytes] = {**about}
    clear["packs"] = canonical(_packs_json(replace(pack, digest="") for pack in contents.packs))
    beside = canonical_object({**clear, "format": HIDDEN})
    inner = {name: fields[name] for name in ("aliases", "tensors", "values")}
    inner["headers"] = [pack.digest for pack in contents.packs]
    return seal({**clear, "hidden": hide(canonical_object(inner), codec, beside)}, HIDDEN)


def document_of(fields: Mapping[str, Any], place: Iterable[str], what: str) -> Contents:
    """The contents of a document with these `fields`; raises as `contents_of` and `decode` do.

    `place` are the fields that what is hidden was bound to in version 1.
    """
    if "hidden" not in fields:
        return contents_of(fields)
    hidden, packs = fields["hidden"], fields["packs"]
    if fields["format"] < HIDDEN:
        told = " ".join(str(fields[name]) for name in place)
        found = json.loads(reveal(hidden, b"%s %s" % (told.encode(), canonical(packs)), what))
    else:
        beside = canonical({name: value for name, value in fields.items() if name != "hidden"})
        found = json.loads(reveal(hidden, beside, what))
        packs = [{**pack, "digest": said} for pack, said in zip(packs, found["headers"], strict=True)]
    return replace(contents_of({**found, "packs": packs}), hidden=hidden["codec"])


def shown(fields: Mapping[str, Any]) -> Contents:
    """The contents of a document with these `fields` as far as that takes no key; raises as `contents_of` does."""
    if "hidden" not in fields:
        return contents_of(fields)
    return Contents(tuple(pack_of(p) for p in fields["packs"]), {}, {}, hidden=fields["hidden"]["codec"])


class EncodedTensors(dict[Path, TensorEntry]):
    """Tensors with their `encoding`, made when there was time for it; not changed any more."""

    def __init__(self, tensors: Mapping[Path, TensorEntry], encoding: bytes | None = None) -> None:
        super().__init__(tensors)
        self.encoding = encode_tensors(tensors) if encoding is None else encoding


class Form:
    """The encoding of `tensors` but for their digests, which are all that differs from save to save of one layout.

    To fill it in for 20,000 tensors takes a tenth of the time that it takes to write them out anew.
    """

    def __init__(self, tensors: Mapping[Path, TensorEntry]) -> None:
        self._paths = sorted(tensors)
        # No text has the stand-in in it: what is written out is escaped.
        self._pieces = _written(self._paths, tensors, lambda digest: _STAND_IN).split(_STAND_IN)

    def encoded(self, tensors: Mapping[Path, TensorEntry]) -> EncodedTensors:
        """`tensors`, which differ from those of the form in their digests alone."""
        parts = [""] * (2 * len(self._pieces) - 1)
        parts[::2] = self._pieces
        parts[1::2] = [_quoted(e.digest) for path in self._paths for box in tensors[path].boxes for e in box.extents]
        return EncodedTensors(tensors, "".join(parts).encode("ascii"))


def _encoded(tensors: Mapping[Path, TensorEntry]) -> bytes:
    return tensors.encoding if isinstance(tensors, EncodedTensors) else encode_tensors(tensors)


def encode_tensors(tensors: Mapping[Path, TensorEntry]) -> bytes:
    """The canonical JSON of `tensors`, written out field by field.

    By way of dicts and lists 20,000 of them take 0.2 s instead of 0.07: what is made for each wakes the collector.
    """
    return _written(sorted(tensors), tensors, _quoted).encode("ascii")


_STAND_IN = "\0"


def _written(paths: Sequence[Path], tensors: Mapping[Path, TensorEntry], quoted: Callable[[str], str]) -> str:
    """The tensors at `paths`, their digests as `quoted` has them."""
    return f"[{','.join([_entry_text(path, tensors[path], quoted) for path in paths])}]"


def _entry_text(path: Path, entry: TensorEntry, quoted: Callable[[str], str]) -> str:
    boxes = ",".join([_box_text(box, quoted) for box in entry.boxes])
    names, shape = ",".join(map(_quoted, path)), _array(entry.shape)
    stride = "" if entry.stride is None else f',"stride":{_array(entry.stride)}'
    return f'{{"boxes":[{boxes}],"dtype":{_quoted(entry.dtype)},"path":[{names}],"shape":{shape}{stride}}}'


def _box_text(box: Box, quoted: Callable[[str], str]) -> str:
    extents = ",".join([f"[{e.pack},{e.offset},{e.length},{quoted(e.digest)}]" for e in box.extents])
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
    packs = tuple(pack_of(p) for p in fields["packs"])
    tensors = {_texts(t["path"]): _entry(t) for t in fields["tensors"]}
    aliases = {_texts(a["path"]): _alias(a) for a in fields["aliases"]}
    if len(tensors) != len(fields["tensors"]) or tensors.keys() & aliases.keys():
        raise ValueError("a path stands twice")
    if not isinstance(fields["values"], dict):
        raise TypeError("the values are no object")
    return Contents(packs, tensors, aliases, fields["values"])


def pack_of(fields: Mapping[str, Any]) -> Pack:
    length, header, rank = _counts([fields["length"], fields["header"], fields["rank"]])
    key, digest, codec = _texts([fields["key"], fields["digest"], fields["codec"]])
    frames = frames_of(fields["frames"], length) if "frames" in fields else None
    return Pack(key, length, header, digest, rank, codec, frames)


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
