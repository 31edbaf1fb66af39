"""Elements: how a tensor of each dtype stands in a pack, without torch. A dtype has torch's own name: ``"bfloat16"``.

A pack must open in stock safetensors, and in every release since 0.5, so only the names that release knew are
used: complex numbers are their real components with a trailing dimension of two, and whatever else it lacks
is raw unsigned integers of the same width. The manifest holds the true dtype. ``U16``, ``U32`` and ``U64``
are read from files by every release; only ``safetensors.torch.load`` (from bytes) knows them since 0.6.2.
"""

from __future__ import annotations

from typing import Final

NAMES: Final = {
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
"""What safetensors calls what stands in the pack, by dtype."""

WIDTHS: Final = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
"""Bytes of one element, by what safetensors calls it."""


def is_complex(dtype: str) -> bool:
    """Whether an element is two real ones in the pack."""
    return dtype.startswith("complex")


def width(dtype: str) -> int:
    """Bytes of one element of `dtype`; raises `KeyError` for one that is not known here."""
    return WIDTHS[NAMES[dtype]] * (2 if is_complex(dtype) else 1)
