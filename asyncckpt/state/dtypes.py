"""Dtypes: what a torch dtype is called in manifests and how its bytes stand in a pack.

A pack must open in stock safetensors, and in every release since 0.5, so only the names that release knew are
used: complex numbers are their real components with a trailing dimension of two, and whatever else it lacks
is raw unsigned integers of the same width. The manifest holds the true dtype. ``U16``, ``U32`` and ``U64``
are read from files by every release; only ``safetensors.torch.load`` (from bytes) knows them since 0.6.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch

from asyncckpt.errors import UnsupportedFormat, UnsupportedState

_NAMES: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex128": "F64",
    "complex64": "F32",
    "complex32": "F16",
    "float8_e4m3fnuz": "U8",
    "float8_e5m2fnuz": "U8",
    "float8_e8m0fnu": "U8",
    "float4_e2m1fn_x2": "U8",
    "bits8": "U8",
    "bits1x8": "U8",
    "bits2x4": "U8",
    "bits4x2": "U8",
    "bits16": "U16",
    **{f"{sign}{bits}": "U8" for sign in ("int", "uint") for bits in range(1, 8)},
}

_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}

# An older torch lacks some of the names; a tensor of those dtypes cannot exist there.
_DTYPES: Final[dict[str, torch.dtype]] = {
    name: dtype for name in _NAMES if isinstance(dtype := getattr(torch, name, None), torch.dtype)
}
_LOGICAL: Final = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Stored:
    """How a tensor stands in a pack: dtype `name` and `shape` in the terms of safetensors.

    `itemsize` is that of torch's element, 16 bytes for complex128: views of packs need to be aligned to it.
    """

    name: str
    itemsize: int
    shape: tuple[int, ...]


def stored(dtype: torch.dtype, shape: Iterable[int]) -> Stored:
    """How a tensor of `dtype` and `shape` stands in a pack; its bytes are the same as in memory.

    Raises `UnsupportedState` where `logical_name` does.
    """
    name = _NAMES[logical_name(dtype)]
    components = (2,) if dtype.is_complex else ()
    return Stored(name, dtype.itemsize, (*shape, *components))


def logical_name(dtype: torch.dtype) -> str:
    """The name of `dtype` in manifests, which is torch's own: ``"bfloat16"``.

    Raises `UnsupportedState` for quantised dtypes, whose scales are not in the tensor's bytes, and for dtypes
    this package does not know.
    """
    if (name := _LOGICAL.get(dtype)) is None:
        raise UnsupportedState(
            f"tensors of {dtype} cannot be held: save a dequantised tensor (.dequantize()), or its integers "
            "(.int_repr()) with their scales"
            if _is_quantised(dtype)
            else f"tensors of {dtype} cannot be held: this asyncckpt does not know that dtype"
        )
    return name


def from_logical(name: str) -> torch.dtype:
    """The dtype that `name` stands for; raises `UnsupportedFormat` for one that is not known here."""
    if (dtype := _DTYPES.get(name)) is None:
        newer = "torch" if name in _NAMES else "asyncckpt"
        raise UnsupportedFormat(f"the checkpoint holds tensors of dtype {name!r}: upgrade {newer}")
    return dtype


def as_bytes_view_dtype(dtype: torch.dtype) -> torch.dtype:
    """An integer dtype of the same width, so that copies and comparisons see bits and not numbers.

    torch has no integer as wide as complex128: for that one it is int64, to be taken of ``view_as_real``.
    Raises `UnsupportedState` where `logical_name` does.
    """
    logical_name(dtype)
    return _INTEGERS[dtype.itemsize]


def _is_quantised(dtype: torch.dtype) -> bool:
    return str(dtype).removeprefix("torch.").startswith(("qint", "quint"))
