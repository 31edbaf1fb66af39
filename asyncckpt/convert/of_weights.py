"""Of weights: files of safetensors as the state that they are part of. Without torch, and without a pickle."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from asyncckpt.convert.image import About, Held
from asyncckpt.convert.named import elements
from asyncckpt.convert.weights import ABOUT
from asyncckpt.errors import CheckpointCorruptError, StorageDenied, UnsupportedFormat, UnsupportedState
from asyncckpt.format.elements import NAMES, is_complex, width
from asyncckpt.format.shard import MAX_HEADER, PackedTensor, decode_header

_SAME = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip
"""The dtype that each of safetensors' names stands for, where nothing else is said."""


@dataclass(slots=True)
class Weights:
    """The tensors of one or several files, which must stay as they are meanwhile."""

    tensors: dict[str, Held] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    """Other names of some of them."""
    about: About = field(default_factory=About)


def weights(files: Mapping[str, Path]) -> Weights:
    """The tensors in `files`, by what each is called in errors.

    Raises `CheckpointCorruptError` for what is no sound file, `UnsupportedFormat` for a dtype that is not known here,
    `UnsupportedState` for a name that stands in two, and `StorageDenied`.
    """
    found = Weights()
    for what, path in files.items():
        one = _read(path, what)
        if twice := found.tensors.keys() & one.tensors.keys():
            raise UnsupportedState(f"{what}: {min(twice)} is in another file too: import one folder at a time")
        found.tensors |= one.tensors
        found.ties |= one.ties
        found.about = one.about
    # What a file says of names that are not there says nothing.
    found.ties = {n: to for n, to in found.ties.items() if to in found.tensors and _are_alike(found.tensors, n, to)}
    for name in found.ties:
        found.tensors.pop(name, None)
    return found


def _are_alike(tensors: Mapping[str, Held], name: str, other: str) -> bool:
    """Whether a tensor may share the memory of the other: it is not there, or is the same bit by bit."""
    mine, its = tensors.get(name), tensors[other]
    if mine is None:
        return name != other
    if name == other or (mine.dtype, mine.shape) != (its.dtype, its.shape):
        return False
    both = bytearray(mine.nbytes), bytearray(its.nbytes)
    mine.write(memoryview(both[0]))
    its.write(memoryview(both[1]))
    return both[0] == both[1]


def _read(path: Path, what: str) -> Weights:
    try:
        with path.open("rb") as file:
            length = path.stat().st_size
            head = int.from_bytes(file.read(8), "little")
            if not 2 <= head <= min(MAX_HEADER, length):
                raise CheckpointCorruptError(f"{what} is not a sound safetensors file: header of {head} bytes")
            file.seek(0)
            header = file.read(8 + head)
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise StorageDenied(error.errno, f"{what} cannot be read: {error.strerror or error}") from error
    packed = decode_header(header, length, what)
    said = _said(header)
    mine = _mine(said)
    dtypes = mine.get("dtypes")
    found, at = Weights(about=_about(mine)), 8 + head
    for tensor in packed:
        dtype, shape = _logical(tensor, dtypes if isinstance(dtypes, dict) else {}, what)
        found.tensors[tensor.name] = Held(dtype, shape, tensor.nbytes, partial(_copy, view[at : at + tensor.nbytes]))
        at += tensor.nbytes
    found.ties = {name: to for name, to in _pairs(mine.get("ties")) if name in found.tensors}
    found.ties |= {name: to for name, to in said.items() if name not in found.tensors}
    return found


def _copy(data: memoryview, into: memoryview) -> None:
    into[:] = data


def _said(header: bytes) -> dict[str, str]:
    said = json.loads(header[8:]).get("__metadata__")
    return dict(_pairs(said))


def _pairs(value: object) -> Iterator[tuple[str, str]]:
    for name, said in value.items() if isinstance(value, dict) else ():
        if isinstance(said, str):
            yield name, said


def _mine(said: Mapping[str, str]) -> dict[str, Any]:
    """What our own export has said, as far as that is what it would say."""
    try:
        found = json.loads(said.get(ABOUT, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _about(mine: Mapping[str, Any]) -> About:
    step, epoch, metrics = mine.get("step"), mine.get("epoch"), mine.get("metrics")
    numbers: dict[str, float] = {}
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(value, int | float) or value in ("nan", "inf", "-inf"):
            numbers[name] = float(value)
    return About(step if _is_count(step) else None, epoch if _is_count(epoch) else None, numbers)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _logical(tensor: PackedTensor, said: Mapping[str, Any], what: str) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape of what a file has as `tensor`; `said` are the dtypes that it has another name for."""
    name, shape = tensor.name, tensor.shape
    if not all(type(count) is int and count >= 0 for count in shape):
        raise CheckpointCorruptError(f"{what} is not a sound safetensors file: {name} has the shape {shape}")
    if tensor.dtype not in _SAME:
        raise UnsupportedFormat(f"{what}: {name} is of dtype {tensor.dtype}, which cannot be held: convert it before")
    dtype = _SAME[tensor.dtype]
    told = said.get(name)
    if isinstance(told, str) and NAMES.get(told) == tensor.dtype and told != dtype:
        is_pair = is_complex(told)
        if not is_pair or (shape and shape[-1] == 2):
            dtype, shape = told, shape[:-1] if is_pair else shape
    if elements(shape) * width(dtype) != tensor.nbytes:
        raise CheckpointCorruptError(f"{what} is not a sound safetensors file: {name} has not as many bytes as {shape}")
    return dtype, shape
