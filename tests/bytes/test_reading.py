"""Reading: few requests, every digest checked, memory aligned, nothing returned from a damaged checkpoint."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

import pytest

from asyncckpt.errors import CheckpointCorruptError, StorageError, TransientError
from asyncckpt.fetching.reading import GAP, check_packs, fetch, spans
from asyncckpt.format.contents import Box, Contents, Extent, Pack, Path, TensorEntry
from asyncckpt.format.digest import digest
from asyncckpt.format.shard import PackedTensor, encode_header
from asyncckpt.storage.memory import MemoryStorage


def packed(sizes: dict[str, int], key: str = "data/p0", extent: int = 64 << 20) -> tuple[bytes, Contents]:
    """A pack of tensors of some sizes, and the contents that describe it."""
    header = encode_header([PackedTensor(name, "U8", (size,), size) for name, size in sizes.items()])
    body = b""
    tensors: dict[Path, TensorEntry] = {}
    for number, (name, size) in enumerate(sizes.items()):
        start = len(header) + len(body)
        data = bytes((number + i) % 251 for i in range(size))
        extents = tuple(
            Extent(0, start + at, len(piece), digest(piece))
            for at in range(0, size, extent)
            if (piece := data[at : at + extent])
        )
        tensors[name,] = TensorEntry("uint8", (size,), (Box((0,), (size,), extents),))
        body += data
    pack = Pack(key, len(header) + len(body), len(header), digest(header))
    return header + body, Contents((pack,), tensors, {})


async def stored(data: bytes, key: str = "data/p0") -> MemoryStorage:
    storage = MemoryStorage()
    await storage.put(key, [data])
    return storage


def test_neighbours_are_one_request() -> None:
    _, contents = packed({f"t{i}": 100 for i in range(1000)})
    assert [span.length for span in spans(contents)] == [100_000]


def test_only_what_is_asked_for_is_read() -> None:
    _, contents = packed({"a": 10, "b": GAP + 1, "c": 30})
    assert [span.length for span in spans(contents, {("a",), ("c",)})] == [10, 30]
    assert spans(contents, set()) == []


def test_a_little_is_read_in_vain_rather_than_by_two_requests() -> None:
    data, contents = packed({"a": 10, "b": GAP, "c": 30})
    assert [span.length for span in spans(contents, {("a",), ("c",)})] == [10 + GAP + 30]
    told: list[int] = []

    async def act() -> None:
        found = await fetch(await stored(data), contents, {("a",), ("c",)}, told.append)
        assert {path: bytes(view) for path, view in found.items()} == {
            ("a",): data[-40 - GAP : -30 - GAP],
            ("c",): data[-30:],
        }

    asyncio.run(act())
    assert told == [40]


def test_a_tensor_of_several_extents_ends_up_in_one_piece() -> None:
    data, contents = packed({"big": 1000, "small": 3}, extent=64)

    async def act() -> None:
        found = await fetch(await stored(data), contents)
        assert bytes(found["big",]) == data[-1003:-3]
        assert bytes(found["small",]) == data[-3:]

    asyncio.run(act())


def test_memory_is_aligned_as_the_file_is() -> None:
    data, contents = packed({"a": 8 * 5, "b": 8 * 3, "c": 8})

    async def act() -> None:
        found = await fetch(await stored(data), contents, {("b",), ("c",)})
        for view in found.values():
            assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % 8 == 0
            assert not view.readonly

    asyncio.run(act())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_what_was_read_is_not_shared_with_a_forked_process() -> None:
    data, contents = packed({"a": 10})

    async def act() -> memoryview:
        return (await fetch(await stored(data), contents))["a",]

    found = asyncio.run(act())
    child = os.fork()
    if not child:
        found[:] = bytes(10)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(found) == data[-10:]


def test_progress_adds_up() -> None:
    data, contents = packed({"a": 10, "b": 20, "c": 30})
    seen: list[int] = []

    async def act() -> None:
        await fetch(await stored(data), contents, {("a",), ("c",)}, seen.append)

    asyncio.run(act())
    assert sum(seen) == 40


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing"])
def test_damage_names_the_pack_and_returns_nothing(damage: str) -> None:
    data, contents = packed({"a": 10, "b": 20})
    broken = bytearray(data)
    broken[-1] ^= 1

    async def act() -> None:
        key = "data/other" if damage == "missing" else "data/p0"
        storage = await stored(bytes(broken) if damage == "flip" else data[:-5], key)
        with pytest.raises(CheckpointCorruptError, match="data/p0") as caught:
            await fetch(storage, contents)
        assert damage != "flip" or "b does not match its digest" in str(caught.value)

    asyncio.run(act())


PACK_DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a flipped bit in the header": (
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        "header does not match",
    ),
    "a byte too many": (lambda data: data + b"x", "bytes instead of"),
    "a byte too few": (lambda data: data[:-1], "bytes instead of"),
    "empty": (lambda data: b"", "has 0 bytes instead of"),
}


@pytest.mark.parametrize("damage", PACK_DAMAGES)
def test_a_pack_that_is_not_as_it_was_written_is_damage_though_the_tensors_are_sound(damage: str) -> None:
    data, contents = packed({"a": 10, "b": 20})
    change, message = PACK_DAMAGES[damage]

    async def act() -> None:
        await check_packs(await stored(data), contents, {("a",)})
        with pytest.raises(CheckpointCorruptError, match=f"data/p0.*{message}") as caught:
            await check_packs(await stored(change(data)), contents, {("a",)})
        assert caught.value.kind == "content"
        with pytest.raises(CheckpointCorruptError, match="data/p0 is missing") as caught:
            await check_packs(MemoryStorage(), contents, {("a",)})
        assert caught.value.kind == "missing"

    asyncio.run(act())


def test_only_packs_of_what_is_read_are_looked_at() -> None:
    data, contents = packed({"a": 10})
    other, others = packed({"b": 10}, "data/p1")
    moved = Extent(1, len(other) - 10, 10, digest(other[-10:]))
    entry = TensorEntry("uint8", (10,), (Box((0,), (10,), (moved,)),))
    both = Contents((*contents.packs, *others.packs), {**contents.tensors, ("b",): entry}, {})

    async def act() -> None:
        storage = await stored(data)
        await check_packs(storage, both, {("a",)})
        await check_packs(storage, both, set())
        with pytest.raises(CheckpointCorruptError, match="data/p1 is missing"):
            await check_packs(storage, both, {("b",)})

    asyncio.run(act())


@pytest.mark.parametrize(
    ("error", "expected"), [(TransientError("later"), TransientError), (StorageError("EIO"), CheckpointCorruptError)]
)
def test_a_store_that_fails_for_the_moment_is_not_damage(error: StorageError, expected: type[Exception]) -> None:
    data, contents = packed({"a": 10})

    class Failing(MemoryStorage):
        async def get(self, *args: object, **options: object) -> memoryview:
            raise error

    class Blind(MemoryStorage):
        async def head(self, key: str) -> None:
            raise error

    async def act() -> None:
        storage = Failing()
        await storage.put("data/p0", [data])
        with pytest.raises(expected):
            await fetch(storage, contents)
        with pytest.raises(expected):
            await check_packs(storage, contents, {("a",)})
        with pytest.raises(expected):
            await check_packs(Blind(), contents, {("a",)})

    asyncio.run(act())
