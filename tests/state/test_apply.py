"""Bytes become tensors again: those that share memory, and manifests that lie about it."""

from __future__ import annotations

import ctypes

import pytest

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.contents import Alias, Box, Contents, Extent, Path, TensorEntry
from asyncckpt.state.apply import tensors_of

BASE: Path = ("base",)


def held(dtype: str, count: int, **aliases: Alias) -> Contents:
    """One tensor of `count` elements of 2 bytes, and what shares them."""
    entry = TensorEntry(dtype, (count,), (Box((0,), (count,), (Extent(0, 0, 2 * count, ""),)),))
    return Contents((), {BASE: entry}, {(name,): alias for name, alias in aliases.items()})


def sharing(dtype: str, count: int, offset: int) -> Alias:
    return Alias(BASE, dtype, (count,), (1,), offset)


@pytest.mark.parametrize(
    "alias",
    [
        pytest.param(sharing("int16", 5, 0), id="longer"),
        pytest.param(sharing("int16", 1, 8), id="behind the end"),
        pytest.param(sharing("int32", 2, 2), id="wide elements, cut off"),
    ],
)
def test_an_alias_that_reaches_beyond_its_bytes_is_damage_and_named(alias: Alias) -> None:
    with pytest.raises(CheckpointCorruptError, match="view reaches beyond the bytes it shares"):
        tensors_of(held("int16", 4, view=alias), {BASE: memoryview(bytearray(8))})


def test_aliases_that_no_memory_could_hold_are_damage() -> None:
    contents = held("int16", 4, view=sharing("int16", 1, 1))
    with pytest.raises(CheckpointCorruptError, match="view"):
        tensors_of(contents, {BASE: memoryview(bytearray(8))})


def test_wide_elements_amid_narrow_ones_are_a_view_of_the_same_memory() -> None:
    found = tensors_of(held("int16", 4, view=sharing("int32", 1, 2)), {BASE: memoryview(bytearray(8))})
    found[BASE].fill_(1)
    assert found[("view",)].tolist() == [1 + (1 << 16)]


def test_what_was_read_together_is_let_go_together_where_one_has_to_move() -> None:
    contents = held("int16", 4)
    entry = contents.tensors[BASE]
    both = Contents((), {BASE: entry, ("odd",): entry}, {})
    for shift, stays in ((64, True), (8, False)):
        span = memoryview(bytearray(256))
        start = -ctypes.addressof(ctypes.c_char.from_buffer(span)) % 64
        data: dict[Path, memoryview] = {
            BASE: span[start : start + 8],
            ("odd",): span[start + shift : start + shift + 8],
        }
        found = tensors_of(both, data)
        span[start] = 1
        assert (found[BASE][0].item() == 1) == stays
        assert data == {}
