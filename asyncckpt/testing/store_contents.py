"""Conformance: what was put is got, whole and in ranges, under keys that stay inside."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

import pytest

from asyncckpt.errors import ObjectNotFound, StorageError
from asyncckpt.storage.base import Buffer, ObjectInfo, Storage
from asyncckpt.testing.store import (
    BLOCK,
    StoreTest,
    aligned,
    content,
    keys,
    listed,
    stream,
)

NOT_KEYS = [
    "", "/", ".", "..", "../x", "a/../x", "/a", "a/", "a//b", "./a", ".a", "a/.b",
    "A", "a b", "a\\b", "a\0", "a\n", "ä", "a:b",
]  # fmt: skip


class ContentTests(StoreTest):
    """Objects and their bytes."""

    @pytest.mark.parametrize(
        "parts",
        [[], [b""], [b"one"], [b"one", b"", b"two"], [bytearray(b"one"), memoryview(b"two")], [bytes(BLOCK)]],
    )
    def test_what_was_put_is_got(self, parts: Sequence[Buffer]) -> None:
        whole = b"".join(parts)

        async def act(store: Storage) -> None:
            assert await store.put("folder/name.json", parts) == ObjectInfo("folder/name.json", len(whole))
            assert await store.get("folder/name.json") == whole
            assert await store.head("folder/name.json") == ObjectInfo("folder/name.json", len(whole))
            assert await keys(store) == ["folder/name.json"]

        self.run(act)

    @pytest.mark.parametrize("announced", [True, False])
    @pytest.mark.parametrize("streamed", [True, False])
    @pytest.mark.parametrize("sizes", [
        [1], [BLOCK], [BLOCK + 1], [3 * BLOCK, 600 * BLOCK, 5], [BLOCK, 400 * BLOCK], [7, 400 * BLOCK, 9],
        [400 * BLOCK, 3, 300 * BLOCK, 0, 1], [20 * 1024 * 1024 + 77],
    ])  # fmt: skip
    def test_big_objects_of_many_parts(self, sizes: Sequence[int], streamed: bool, announced: bool) -> None:
        parts = aligned(sizes)
        digest, total = hashlib.sha256(b"".join(parts)).digest(), sum(sizes)

        async def act(store: Storage) -> None:
            length = total if announced else None
            assert await store.put("big", stream(parts) if streamed else parts, length=length) == ObjectInfo(
                "big", total
            )
            assert hashlib.sha256(await store.get("big")).digest() == digest

        self.run(act)

    def test_parts_at_odd_addresses(self) -> None:
        whole = aligned([700 * BLOCK])[0]

        async def act(store: Storage) -> None:
            await store.put("big", [whole[8 : 300 * BLOCK + 8], whole[: 300 * BLOCK], whole[3 : 50 * BLOCK]])
            found = await store.get("big")
            assert found == bytes(whole[8 : 300 * BLOCK + 8]) + whole[: 300 * BLOCK] + whole[3 : 50 * BLOCK]

        self.run(act)

    def test_a_stream_may_fill_the_same_buffer_again(self) -> None:
        buffer = aligned([BLOCK + 100])[0]

        async def again() -> AsyncIterator[Buffer]:
            for value in range(5):
                buffer[:] = bytes([value]) * len(buffer)
                yield buffer
            buffer[:] = bytes(len(buffer))

        async def act(store: Storage) -> None:
            await store.put("big", again())
            assert await content(store, "big") == b"".join(bytes([value]) * (BLOCK + 100) for value in range(5))

        self.run(act)

    def test_put_overwrites(self) -> None:
        async def act(store: Storage) -> None:
            await store.put("a", [b"a long first version"])
            await store.put("a", [b"second"])
            assert await content(store, "a") == b"second"
            assert await listed(store) == [ObjectInfo("a", 6)]

        self.run(act)

    def test_many_small_objects_are_got_in_their_order_and_what_is_missing_says_so(self) -> None:
        async def act(store: Storage) -> None:
            whole = {f"c/{number:04d}": str(number).encode() * number for number in range(300)}
            await asyncio.gather(*(store.put(key, [data]) for key, data in whole.items()))
            keys = [*reversed(whole), "c/none", "c/0007", "c"]
            found = await store.get_each(keys)
            assert [bytes(each) for each in found if isinstance(each, memoryview)] == [
                *reversed(whole.values()),
                whole["c/0007"],
            ]
            assert isinstance(found[300], ObjectNotFound)
            assert isinstance(found[302], ObjectNotFound)
            assert await store.get_each([]) == []

        self.run(act)

    def test_ranges(self) -> None:
        whole = bytes(range(12))  # every range of these is a request

        async def act(store: Storage) -> None:
            await store.put("a", [whole])
            for start in range(len(whole) + 1):
                assert await store.get("a", start=start) == whole[start:]
                for length in range(len(whole) + 1 - start):
                    assert await store.get("a", start=start, length=length) == whole[start : start + length]

        self.run(act)

    def test_big_ranges(self) -> None:
        whole = aligned([40 * 1024 * 1024 + 5])[0]

        async def act(store: Storage) -> None:
            await store.put("a", [whole])
            for start, length in ((1, 35 * 1024 * 1024), (BLOCK, 17 * 1024 * 1024), (0, 1 << 20), (5, None)):
                end = len(whole) if length is None else start + length
                assert await store.get("a", start=start, length=length) == whole[start:end]

        self.run(act)

    def test_ranges_land_in_the_given_buffer(self) -> None:
        async def act(store: Storage) -> None:
            await store.put("a", [b"0123456789"])
            around = bytearray(b"----------")
            got = await store.get("a", start=2, length=5, into=memoryview(around)[3:8])
            assert (bytes(around), bytes(got)) == (b"---23456--", b"23456")
            whole = bytearray(10)
            await store.get("a", into=whole)
            assert bytes(whole) == b"0123456789"

        self.run(act)

    @pytest.mark.parametrize("room", [bytearray(4), bytearray(6), bytearray(0), memoryview(bytes(5))])
    def test_a_buffer_that_does_not_fit_is_refused(self, room: Buffer) -> None:
        async def act(store: Storage) -> None:
            await store.put("a", [b"0123456789"])
            with pytest.raises(StorageError):
                await store.get("a", start=2, length=5, into=room)

        self.run(act)

    @pytest.mark.parametrize(("start", "length"), [(11, None), (11, 0), (0, 11), (10, 1), (5, 6), (-1, None), (0, -1)])
    def test_past_the_end_is_an_error(self, start: int, length: int | None) -> None:
        async def act(store: Storage) -> None:
            await store.put("a", [b"0123456789"])
            with pytest.raises(StorageError) as caught:
                await store.get("a", start=start, length=length)
            assert not isinstance(caught.value, ObjectNotFound)

        self.run(act)

    def test_what_is_not_there(self) -> None:
        async def act(store: Storage) -> None:
            for _ in range(2):
                with pytest.raises(ObjectNotFound):
                    await store.get("folder/absent")
                assert await store.head("folder/absent") is None
                await store.put("folder/there", [b"x"])

        self.run(act)

    def test_a_folder_is_not_an_object(self) -> None:
        async def act(store: Storage) -> None:
            await store.put("a/b/c", [b"x"])
            for folder in ("a", "a/b"):
                assert await store.head(folder) is None
                with pytest.raises(ObjectNotFound):
                    await store.get(folder)
                await store.delete([folder])
            assert await content(store, "a/b/c") == b"x"

        self.run(act)

    @pytest.mark.parametrize("key", NOT_KEYS)
    def test_keys_that_could_escape_are_refused(self, key: str) -> None:
        async def act(store: Storage) -> None:
            with pytest.raises(StorageError):
                await store.put(key, [b"x"])
            with pytest.raises(StorageError):
                await store.get(key)
            with pytest.raises(StorageError):
                await store.head(key)
            with pytest.raises(StorageError):
                await store.delete([key])
            assert await keys(store) == []

        self.run(act)
