"""Every dtype torch has is stored in a form that stock safetensors reads back, or is refused by name."""

from __future__ import annotations

import json
import math
import struct

import pytest
import safetensors.torch
import torch

from asyncckpt.errors import UnsupportedFormat, UnsupportedState
from asyncckpt.state.dtypes import Stored, as_bytes_view_dtype, from_logical, logical_name, stored

QUANTISED = {"torch.qint8", "torch.quint8", "torch.qint32", "torch.quint4x2", "torch.quint2x4"}
DTYPES = sorted({v for v in vars(torch).values() if isinstance(v, torch.dtype)}, key=str)
HELD = [dtype for dtype in DTYPES if str(dtype) not in QUANTISED]

# Read off the sources of safetensors 0.5.0: the dtypes its file reader returns as the torch dtype named.
READ_SINCE_0_5 = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def file_of(dtype: torch.dtype, shape: tuple[int, ...], data: bytes) -> bytes:
    form = stored(dtype, shape)
    entry = {"dtype": form.name, "shape": form.shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"t": entry}).encode()
    return struct.pack("<Q", len(header)) + header + data


def payload(dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    size = math.prod(shape) * dtype.itemsize
    # A bool is 0 or 1 in memory; anything goes for the rest, NaN patterns included.
    return bytes(i % 2 if dtype is torch.bool else (37 * i + 200) % 256 for i in range(size))


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


@pytest.mark.parametrize("dtype", HELD, ids=str)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)], ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_stock_safetensors_reads_the_stored_form_and_its_bytes_are_the_tensors(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    data = payload(dtype, shape)
    form = stored(dtype, shape)

    read = safetensors.torch.load(file_of(dtype, shape, data))["t"]

    assert read.dtype == READ_SINCE_0_5[form.name]
    assert tuple(read.shape) == form.shape
    assert form.itemsize == dtype.itemsize
    assert bits(read) == data
    if math.prod(shape):
        assert bits(torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)) == data


@pytest.mark.parametrize("dtype", HELD, ids=str)
def test_the_logical_name_leads_back_to_the_dtype(dtype: torch.dtype) -> None:
    assert from_logical(logical_name(dtype)) is dtype
    assert logical_name(dtype) == str(dtype).removeprefix("torch.")


def test_the_names_people_know_are_the_names_in_the_pack() -> None:
    assert stored(torch.bfloat16, (4, 2)).name == "BF16"
    assert stored(torch.float8_e4m3fn, (4, 2)).name == "F8_E4M3"
    assert stored(torch.complex64, (4, 2)) == Stored("F32", 8, (4, 2, 2))
    assert stored(torch.complex128, torch.Size([])) == Stored("F64", 16, (2,))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if str(d) in QUANTISED], ids=str)
def test_quantised_dtypes_are_refused_with_a_way_out(dtype: torch.dtype) -> None:
    for call in (logical_name, as_bytes_view_dtype, lambda d: stored(d, (1,))):
        with pytest.raises(UnsupportedState, match=rf"{dtype}.*dequantize"):
            call(dtype)


def test_a_dtype_this_package_has_never_heard_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(logical_name.__globals__["_LOGICAL"], torch.int64)
    with pytest.raises(UnsupportedState, match=r"torch\.int64 .* does not know"):
        stored(torch.int64, (1,))


def test_an_unknown_logical_name_says_what_to_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedFormat, match="'float2': upgrade asyncckpt"):
        from_logical("float2")
    monkeypatch.delitem(from_logical.__globals__["_DTYPES"], "float8_e8m0fnu", raising=False)  # an old torch has none
    with pytest.raises(UnsupportedFormat, match="'float8_e8m0fnu': upgrade torch"):
        from_logical("float8_e8m0fnu")


@pytest.mark.parametrize("name", ["qint8", "Tensor", "nn", "__name__", ""])
def test_other_attributes_of_torch_are_not_dtypes(name: str) -> None:
    with pytest.raises(UnsupportedFormat):
        from_logical(name)


@pytest.mark.parametrize("dtype", HELD, ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_the_bytes_view_copies_bit_for_bit(dtype: torch.dtype) -> None:
    data = payload(dtype, (2, 3))
    source = torch.frombuffer(bytearray(data), dtype=dtype).reshape(2, 3)
    target = torch.empty(2, 3, dtype=dtype)
    integer = as_bytes_view_dtype(dtype)

    def view(tensor: torch.Tensor) -> torch.Tensor:
        return (torch.view_as_real(tensor) if dtype is torch.complex128 else tensor).view(integer)

    view(target).copy_(view(source))

    assert not integer.is_floating_point
    assert not integer.is_complex
    assert bits(target) == data
    assert torch.equal(view(source), view(target))
