"""Conformance: what some stores can do beside all that each has to: keep objects open, show links."""

from __future__ import annotations

import sys

import pytest

from asyncckpt.errors import ObjectNotFound, StorageError
from asyncckpt.storage.base import Linking, Opening, Storage
from asyncckpt.testing.store import StoreTest, keys, unfinished
from asyncckpt.testing.store_contents import NOT_KEYS


class OpeningTests(StoreTest):
    """Objects that are kept open, see `Opening`."""

    def test_an_open_object_stays_readable_when_it_is_deleted_or_replaced(self) -> None:
        async def act(store: Storage) -> None:
            assert isinstance(store, Opening)
            whole = bytes(range(256)) * 5000
            for key in ("a/b", "c"):
                await store.put(key, [whole])
            opened = [store.open(key) for key in ("a/b", "c")]
            await store.put("c", [b"another"])
            if sys.platform != "win32":  # which deletes nothing that is open
                await store.delete(["a/b"])
            for each in opened:
                for start, length in ((0, len(whole)), (1000, 3), (len(whole), 0)):
                    room = bytearray(length)
                    each.fill(memoryview(room), start)
                    assert room == whole[start : start + length]
                with pytest.raises(StorageError) as caught:
                    each.fill(memoryview(bytearray(3)), len(whole) - 2)
                assert not isinstance(caught.value, ObjectNotFound)
                each.close()

        self.run(act)

    @pytest.mark.parametrize("key", ["folder", "folder/absent", "absent/absent", *NOT_KEYS])
    def test_what_is_not_an_object_cannot_be_opened(self, key: str) -> None:
        async def act(store: Storage) -> None:
            assert isinstance(store, Opening)
            await store.put("folder/there", [b"x"])
            with pytest.raises(StorageError) as caught:
                store.open(key)
            assert isinstance(caught.value, ObjectNotFound) == (key not in NOT_KEYS)

        self.run(act)


class LinkingTests(StoreTest):
    """Links, see `Linking`."""

    def test_links_are_shown_to_people_only(self) -> None:
        async def act(store: Storage) -> None:
            assert isinstance(store, Linking)
            await store.put("data/1/x", [b"one"])
            await store.put("data/2/x", [b"two"])
            for _ in range(2):
                await store.link("latest", "data/1")
                await store.link("latest", "data/2")
                await store.link("links/best", "data/2/x")
            assert await keys(store) == ["data/1/x", "data/2/x"]
            assert await store.head("latest") is await store.head("links/best") is None
            with pytest.raises(ObjectNotFound):
                await store.get("links/best")
            assert await unfinished(store) == []

        self.run(act)
