"""Dtypes: what a torch dtype is called in manifests and how its bytes stand in a pack (see `format.elements`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch

from asyncckpt.errors import UnsupportedFormat, UnsupportedState
from asyncckpt.format.elements import NAMES

_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}

# An older torch lacks some of the names; a tensor of those dtypes cannot exist there.
_DTYPES: Final[dict[str, torch.dtype]] = {
    name: dtype for name in NAMES if isinstance(dtype := getattr(torch, name, None), torch.dtype)
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
    name = NAMES[logical_name(dtype)]
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
        newer = "torch" if name in NAMES else "asyncckpt"
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
