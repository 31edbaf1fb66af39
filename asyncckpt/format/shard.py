"""Pack: a safetensors file whose data begins on a 4096-byte boundary, so that it can be written directly.

safetensors refuses holes, overlaps, bytes after the last tensor and NUL padding, and silently takes the last
of two equal names. So the header is padded with spaces, tensors lie gap-free in order of falling element
size (which aligns every one of them), and names are made unique here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.contents import Path

ALIGNMENT = 4096
"""Where data starts: the largest logical block size of the disks we know."""

MAX_HEADER = 64 << 20
"""A pack is split before its header grows past this; readers refuse more than 100,000,000 bytes."""

METADATA = {"format": "pt", "asyncckpt": "1"}
"""Constant on purpose: a value that varied would change the bytes of an unchanged pack."""


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor as its pack names it: safetensors dtype, stored shape, and length in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def pack_names(paths: Iterable[Path]) -> dict[Path, str]:
    """A unique name for each path: its components joined by dots, ``#n`` appended where that clashes."""
    return unique_names({path: ".".join(path) for path in paths})


def unique_names(plain: Mapping[Path, str]) -> dict[Path, str]:
    """The `plain` name of each path, ``#n`` appended where an earlier one has that already."""
    names: dict[Path, str] = {}
    taken = {"__metadata__"}
    for path, wanted in plain.items():
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted}#{number}"
        taken.add(name)
        names[path] = name
    return names


def encode_header(tensors: Sequence[PackedTensor], metadata: Mapping[str, str] = METADATA) -> bytes:
    """The pack's bytes up to its first tensor, a multiple of `ALIGNMENT` long.

    The tensors' bytes follow in the given order without gaps. Raises `ValueError` on a repeated name.
    """
    fields: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for tensor in tensors:
        if tensor.name in fields:
            raise ValueError(f"two tensors are named {tensor.name!r}")
        fields[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    length = -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8
    return struct.pack("<Q", length) + text.ljust(length, b" ")


def decode_header(data: bytes | memoryview, file_length: int, what: str) -> list[PackedTensor]:
    """The tensors that a pack's first bytes announce, checked against the length of the whole file.

    `data` holds at least the header. Raises `CheckpointCorruptError` naming `what` on a hole, an overlap,
    bytes behind the last tensor, or anything that is not a header.
    """
    try:
        return _decode_header(bytes(data), file_length)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise CheckpointCorruptError(f"{what} is not a sound safetensors file: {error}") from error


def _decode_header(data: bytes, file_length: int) -> list[PackedTensor]:
    (length,) = struct.unpack_from("<Q", data)
    if length > MAX_HEADER or 8 + length > len(data):
        raise ValueError(f"header of {length} bytes")
    pairs = json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
    tensors = []
    end = 0
    for name, entry in sorted(pairs.items(), key=_by_offset):
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        if start != end or stop < start:
            raise ValueError(f"tensor {name!r} does not begin where the one before ends")
        tensors.append(PackedTensor(name, entry["dtype"], tuple(entry["shape"]), stop - start))
        end = stop
    if 8 + length + end != file_length:
        raise ValueError(f"{file_length} bytes long, {8 + length + end} announced")
    return tensors


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice")
    return fields


def _by_offset(item: tuple[str, dict[str, list[int]]]) -> tuple[int, int]:
    name, entry = item
    return (-1, -1) if name == "__metadata__" else (entry["data_offsets"][0], entry["data_offsets"][1])
