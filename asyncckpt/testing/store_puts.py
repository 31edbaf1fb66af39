"""Conformance: a put is there whole or not at all, and a create is exclusive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncckpt.errors import ObjectExists, StorageError
from asyncckpt.storage.base import Buffer, ObjectInfo, Storage
from asyncckpt.testing.store import (
    BLOCK,
    StoreTest,
    aligned,
    attempt,
    content,
    expect,
    forever,
    keys,
    stream,
    unfinished,
)


class PutTests(StoreTest):
    """Puts that fail, race and run at once."""

    @pytest.mark.parametrize("sent", [0, 3, 2 * 1024 * 1024])
    @pytest.mark.parametrize("error", [ValueError("mine"), OSError(28, "mine"), KeyError("mine")])
    @pytest.mark.parametrize("before", [None, b"old"])
    def test_an_exception_from_the_parts_aborts(self, before: bytes | None, error: Exception, sent: int) -> None:
        async def failing() -> AsyncIterator[Buffer]:
            yield bytes(sent)
            raise error

        async def act(store: Storage) -> None:
            if before is not None:
                await store.put("a/b", [before])
            with pytest.raises(type(error)) as caught:
                await store.put("a/b", failing(), length=sent + 1)
            assert caught.value is error
            await expect(store, "a/b", before)
            assert await unfinished(store) == []

        self.run(act)

    @pytest.mark.parametrize("before", [None, b"old"])
    def test_a_cancelled_put_leaves_nothing(self, before: bytes | None) -> None:
        async def act(store: Storage) -> None:
            if before is not None:
                await store.put("a/b", [before])
            halfway = asyncio.Event()
            put = asyncio.create_task(store.put("a/b", forever(halfway)))
            await halfway.wait()
            await expect(store, "a/b", before)
            put.cancel()
            with pytest.raises(asyncio.CancelledError):
                await put
            await expect(store, "a/b", before)
            assert await unfinished(store) == []

        self.run(act)

    def test_a_cancelled_create_leaves_nothing(self) -> None:
        async def act(store: Storage) -> None:
            if await store.probe() == "none":
                return
            halfway = asyncio.Event()
            put = asyncio.create_task(store.put("a/b", forever(halfway), mode="create"))
            await halfway.wait()
            put.cancel()
            with pytest.raises(asyncio.CancelledError):
                await put
            await expect(store, "a/b", None)
            assert await unfinished(store) == []
            await store.put("a/b", [b"x"], mode="create")

        self.run(act)

    def test_nothing_shows_before_the_put_is_done(self) -> None:
        async def act(store: Storage) -> None:
            halfway, more = asyncio.Event(), asyncio.Event()

            async def slow() -> AsyncIterator[Buffer]:
                yield bytes(2 * 1024 * 1024)
                halfway.set()
                await more.wait()
                yield b"end"

            put = asyncio.create_task(store.put("a/b", slow()))
            await halfway.wait()
            await expect(store, "a/b", None)
            more.set()
            await put
            assert await store.head("a/b") == ObjectInfo("a/b", 2 * 1024 * 1024 + 3)

        self.run(act)

    def test_create_refuses_what_exists(self) -> None:
        async def act(store: Storage) -> None:
            if await store.probe() == "none":
                with pytest.raises(StorageError):
                    await store.put("a/b", [b"first"], mode="create")
                return
            await store.put("a/b", [b"first"], mode="create")
            with pytest.raises(ObjectExists):
                await store.put("a/b", [b"second"], mode="create")
            with pytest.raises(ObjectExists):
                await store.put("a/b", stream([b"second"]), mode="create")
            assert await content(store, "a/b") == b"first"
            await store.put("a/b", [b"third"])
            assert await content(store, "a/b") == b"third"
            await store.put("c", stream(aligned([300 * BLOCK + 1])), mode="create")
            assert await store.get("c") == aligned([300 * BLOCK + 1])[0]
            assert await unfinished(store) == []

        self.run(act)

    def test_exactly_one_of_many_creates_succeeds(self) -> None:
        async def race(store: Storage) -> None:
            if await store.probe() == "none":
                return
            for key in ("run/0001", "run/0002", "other/0001"):
                outcomes = await asyncio.gather(*(attempt(store, key, f"{number}") for number in range(12)))
                winners = [outcome for outcome in outcomes if outcome is not None]
                assert len(winners) == 1
                assert await store.get(key) == winners[0].encode()
            assert await unfinished(store) == []

        self.run(race)

    def test_exactly_one_of_many_instances_creates(self) -> None:
        if self.run(lambda store: store.probe()) == "none":
            return

        def one(number: int) -> list[str | None]:
            async def act(store: Storage) -> list[str | None]:
                return [await attempt(store, f"run/{slot:04}", f"{number}") for slot in range(10)]

            return self.run(act)

        with ThreadPoolExecutor(4) as racers:
            outcomes = list(racers.map(one, range(4)))
        assert [sum(winner is not None for winner in slot) for slot in zip(*outcomes, strict=True)] == [1] * 10

    def test_probe_tells_how_creates_behave(self) -> None:
        async def act(store: Storage) -> None:
            assert await store.probe() in ("whole", "torn", "none")
            other = self.make()
            assert await store.probe() == await other.probe()
            await other.aclose()
            assert await keys(store) == []
            assert await unfinished(store) == []

        self.run(act)

    def test_many_at_once(self) -> None:
        async def act(store: Storage) -> None:
            async def cycle(number: int) -> None:
                content = bytes([number]) * (number * 50_000)
                for round_ in range(3):
                    key = f"data/{number % 3}/{number}-{round_}"
                    await store.put(key, [content])
                    assert await store.get(key) == content
                    await store.delete([key])

            await asyncio.gather(*(cycle(number) for number in range(30)))
            assert await keys(store) == []
            assert await unfinished(store) == []

        self.run(act)

    def test_one_instance_serves_several_loops(self) -> None:
        store = self.make()

        def one(number: int) -> None:
            async def act() -> None:
                for round_ in range(5):
                    await store.put(f"data/{number}", [bytes([round_]) * 1000])
                    assert await store.get(f"data/{number}") == bytes([round_]) * 1000

            asyncio.run(act())

        with ThreadPoolExecutor(4) as loops:
            list(loops.map(one, range(4)))
        assert asyncio.run(keys(store)) == [f"data/{number}" for number in range(4)]
        asyncio.run(store.aclose())

    def test_overwrites_are_never_seen_half(self) -> None:
        async def act(store: Storage) -> None:
            versions = [bytes([number]) * (1000 + number) for number in range(20)]
            await store.put("a", [versions[0]])

            async def write() -> None:
                for version in versions:
                    await store.put("a", [version])

            writing = asyncio.create_task(write())
            while not writing.done():
                assert await store.get("a") in versions
                await asyncio.sleep(0)  # a store that never waits would never let the writer go on
            await writing

        self.run(act)
