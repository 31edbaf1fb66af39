"""Packs: stock safetensors reads what we write, and everything malformed is refused."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.shard import ALIGNMENT, PackedTensor, decode_header, encode_header, pack_names

COMPONENTS = st.text(max_size=6) | st.sampled_from(["a", "a.b", "", ".", "/", "__metadata__", "a#2"])
PATHS = st.lists(st.lists(COMPONENTS, min_size=1, max_size=3).map(tuple), unique=True, max_size=12)


@given(PATHS)
def test_names_are_unique_and_plain_where_they_can_be(paths: list[tuple[str, ...]]) -> None:
    names = pack_names(paths)
    assert len(set(names.values())) == len(paths)
    assert "__metadata__" not in names.values()
    for path, name in names.items():
        assert name == ".".join(path) or name.startswith(".".join(path) + "#")


@given(PATHS, st.data())
def test_stock_safetensors_reads_every_pack(paths: list[tuple[str, ...]], data: st.DataObject) -> None:
    sizes = sorted((data.draw(st.integers(0, 3)) * 4 for _ in paths), reverse=True)
    names = pack_names(paths).values()
    tensors = [PackedTensor(n, "F32", (s // 4,), s) for n, s in zip(names, sizes, strict=True)]
    header = encode_header(tensors)
    assert len(header) % ALIGNMENT == 0
    body = bytes(range(sum(sizes)))
    found = {name: bytes(entry["data"]) for name, entry in deserialize(header + body)}
    end = 0
    for tensor in tensors:
        assert found[tensor.name] == body[end : end + tensor.nbytes]
        end += tensor.nbytes
    assert decode_header(header, len(header) + end, "it") == tensors


def test_the_encoder_refuses_a_repeated_name() -> None:
    # Readers take the last of two equal names silently: the first tensor would be lost.
    with pytest.raises(ValueError, match="two tensors are named 'a'"):
        encode_header([PackedTensor("a", "U8", (1,), 1)] * 2)


def test_equal_tensors_give_equal_headers() -> None:
    tensors = [PackedTensor("a", "U8", (1,), 1)]
    assert encode_header(tensors) == encode_header(tensors)


def _pack(fields: dict | str, length: int | None = None) -> bytes:
    text = (fields if isinstance(fields, str) else json.dumps(fields)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def _entry(start: int, end: int) -> dict:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "data_length"),
    [
        (_pack({"a": _entry(0, 4), "b": _entry(8, 12)}), 12),
        (_pack({"a": _entry(0, 4), "b": _entry(2, 6)}), 6),
        (_pack({"a": _entry(4, 8)}), 8),
        (_pack({"a": _entry(0, 4)}), 5),
        (_pack({"a": _entry(0, 4)}), 3),
        (
            _pack(
                '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
            ),
            0,
        ),
        (_pack({"a": {"dtype": "U8"}}), 0),
        (_pack("[]"), 0),
        (_pack("not json"), 0),
        (_pack({}, length=1 << 40), 0),
        (b"\0\0\0", 0),
        (_pack("[" * 100_000), 0),
    ],
)
def test_malformed_headers_are_damage(header: bytes, data_length: int) -> None:
    with pytest.raises(CheckpointCorruptError, match="the pack is not a sound safetensors file"):
        decode_header(header, len(header) + data_length, "the pack")
