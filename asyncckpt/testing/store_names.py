"""Conformance: listing, deleting, what unfinished puts leave behind, and links."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from asyncckpt.errors import ObjectExists, StorageError
from asyncckpt.storage.base import ObjectInfo, Storage
from asyncckpt.testing.store import (
    StoreTest,
    content,
    expect,
    forever,
    keys,
    listed,
    stream,
    unfinished,
)


class NameTests(StoreTest):
    """Which objects there are."""

    def test_an_empty_store_lists_as_empty(self) -> None:
        async def act(store: Storage) -> None:
            assert await keys(store) == []
            assert await keys(store, "commits/") == []
            assert await unfinished(store) == []

        self.run(act)

    def test_lists_are_sorted_by_key(self) -> None:
        names = ["a-b", "a.b", "a/b", "a/b.c", "a/c/d", "a0", "b/a", "b/a-", "b/a.a", "ab/c", "z", "0"]

        async def act(store: Storage) -> None:
            for number, name in enumerate(names):
                await store.put(name, [bytes(number)])
            lengths = {name: number for number, name in enumerate(names)}
            assert await listed(store) == [ObjectInfo(name, lengths[name]) for name in sorted(names)]
            for prefix in ["", "a", "a/", "a/b", "a/b.", "a/c", "a/c/", "a/c/d", "b/a", "c", "a/b/", "x/y/"]:
                wanted = sorted(name for name in names if name.startswith(prefix))
                assert await keys(store, prefix) == wanted
                for after in ["", "0", "a.b", "a/b", "a/b.c", "a/bb", "a/c", "b", "zz"]:
                    assert await keys(store, prefix, after) == [name for name in wanted if name > after]

        self.run(act)

    @pytest.mark.parametrize("prefix", ["../", "/", "a/../", "../../", "..", "./"])
    def test_a_prefix_never_leads_outside(self, prefix: str) -> None:
        async def act(store: Storage) -> None:
            await store.put("a/b", [b"x"])
            with suppress(StorageError):  # refusing is as good
                assert await keys(store, prefix) == []

        self.run(act)

    def test_lists_are_fresh(self) -> None:
        async def act(store: Storage) -> None:
            other = self.make()
            for number in range(20):
                await store.put(f"run/{number:03}", [b"x"])
                assert len(await keys(store, "run/")) == len(await keys(other, "run/")) == number + 1
            for number in range(20):
                await other.delete([f"run/{number:03}"])
                assert len(await keys(store, "run/")) == len(await keys(other, "run/")) == 19 - number
            await other.aclose()

        self.run(act)

    def test_two_instances_see_the_same(self) -> None:
        async def act(store: Storage) -> None:
            other = self.make()
            await store.put("a/b", [b"first"])
            assert await content(other, "a/b") == b"first"
            await other.put("a/b", [b"second"])
            assert await content(store, "a/b") == b"second"
            if await other.probe() != "none":
                with pytest.raises(ObjectExists):
                    await other.put("a/b", [b"third"], mode="create")
            await store.delete(["a/b"])
            assert await other.head("a/b") is None
            await other.aclose()

        self.run(act)

    def test_delete(self) -> None:
        async def act(store: Storage) -> None:
            for name in ("a/b/c", "a/b/d", "a/e", "f"):
                await store.put(name, [name.encode()])
            await store.delete([])
            await store.delete(["a/b/c", "absent", "a/b/absent", "x/y/z", "f"])
            assert await keys(store) == ["a/b/d", "a/e"]
            await store.delete(["a/b/d", "a/b/d"])
            await store.delete(["a/b/d"])
            assert await keys(store) == ["a/e"]
            await store.delete(["a/e"])
            assert await keys(store) == []
            await store.put("a/b/c", [b"again"])
            assert await content(store, "a/b/c") == b"again"

        self.run(act)

    def test_unfinished_puts_are_listed_and_aborted(self) -> None:
        async def act(store: Storage) -> None:
            halfway = asyncio.Event()
            put = asyncio.create_task(store.put("a/b", forever(halfway)))
            await halfway.wait()
            # A store that leaves nothing behind has none to show, ever.
            shown = await unfinished(store)
            assert {upload.key for upload in shown} <= {"a/b"}
            assert await unfinished(store, "a/") == await unfinished(store, "a/b") == shown
            assert await unfinished(store, "b") == await unfinished(store, "a/c") == []
            assert await keys(store) == []
            for upload in shown:
                await store.abort(upload)
            assert await unfinished(store) == []
            put.cancel()
            await asyncio.wait([put])
            for upload in shown:
                await store.abort(upload)
            await expect(store, "a/b", None)

        self.run(act)

    def test_it_says_what_it_is(self) -> None:
        async def act(store: Storage) -> None:
            assert store.url
            await store.put("a", stream([b"x"]), length=1)
            assert all(name and reason for name, reason in store.fallbacks.items())

        self.run(act)
