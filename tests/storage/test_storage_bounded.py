"""Bounded: nobody waits for a store that goes on no more, nothing else is asked of it, and its memory may be let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import OutcomeUnknown, TransientError
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage import bounded as bounded_
from asyncckpt.storage.base import Lasting, Linking, Opening, Storage
from asyncckpt.storage.bounded import Bounded, bounded
from asyncckpt.storage.recipe import recipe_of
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.testing.storage import LinkingTests, OpeningTests, StorageSuite

NEVER = 3600.0
SOON = 0.01


class TestBoundedMemory(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self) -> None:
        self.store = bounded(MemoryStorage("suite"))

    def make(self) -> Storage:
        return self.store


class TestBoundedDisk(StorageSuite, OpeningTests, LinkingTests):
    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path) -> None:
        self.path = tmp_path / "run"

    def make(self) -> Storage:
        return bounded(LocalStorage(self.path))


class Clock:
    """The time for which requests stand still: each look is `step` later, however slow the machine is."""

    def __init__(self) -> None:
        self.now, self.step = 0.0, SOON

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


def patience(monkeypatch: pytest.MonkeyPatch, *, usual: float = NEVER, hurry: float = NEVER) -> Clock:
    """Nothing here depends on how long that takes: what hangs does so until the test lets it go."""
    clock = Clock()
    monkeypatch.setattr(bounded_, "time", clock)
    monkeypatch.setattr(bounded_, "PATIENCE", usual)
    monkeypatch.setattr(bounded_, "HURRY", hurry)
    monkeypatch.setattr(bounded_, "_LOOK", SOON)
    return clock


async def back(store: Bounded) -> None:
    """Return once nothing of it is held."""
    while True:
        await asyncio.sleep(0)
        if not store.is_held:
            return


def test_a_request_that_hangs_is_left_behind_and_nothing_else_is_asked_before_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patience(monkeypatch, usual=SOON)

    async def act() -> None:
        gated = GatedStorage(MemoryStorage("near"))
        store = bounded(gated)
        with gated.hold("head", "a"):
            with pytest.raises(TransientError, match="memory://near: head a has not gone on for 0 s"):
                await store.head("a")
            assert store.is_held
            asked = list(gated.calls)
            for other in (store.head("b"), store.get("b"), store.put("b", [b""]), store.get("b", into=bytearray(1))):
                with pytest.raises(TransientError, match=r"head a has not gone on.*nothing else is asked of it"):
                    await other
            assert gated.calls == asked
            await store.aclose()  # does not wait for it
        await back(store)
        monkeypatch.setattr(bounded_, "PATIENCE", NEVER)
        assert await store.head("b") is None
        assert "memory://near answers again" in caplog.text

    asyncio.run(act())


def test_whether_a_put_that_was_left_behind_is_applied_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, usual=SOON)

    async def act() -> None:
        gated = GatedStorage(MemoryStorage())
        store = bounded(gated)
        with gated.hold("put", "a"), pytest.raises(OutcomeUnknown, match="put a has not gone on"):
            await store.put("a", [b"x"], mode="create")
        await back(store)
        assert bytes(await gated.inner.get("a")) == b"x"

    asyncio.run(act())


class Slow(MemoryStorage):
    """Takes a part, and then waits."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.taken = list[bytes]()

    async def put(self, key: str, parts: Any, **options: Any) -> Any:
        async for part in parts:
            self.taken.append(bytes(part))
            await self.go.wait()
        return await super().put(key, self.taken, **options)


@pytest.mark.parametrize("lasting", [True, False])
def test_a_put_that_was_left_behind_is_fed_no_more_and_never_published(
    monkeypatch: pytest.MonkeyPatch, lasting: bool
) -> None:
    patience(monkeypatch, usual=SOON)

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one", b"two"):
            yield part

    async def act() -> None:
        slow = Slow()
        store = bounded(slow)
        with pytest.raises(OutcomeUnknown):
            await store.put("a", Lasting(parts()) if lasting else parts())
        slow.go.set()
        await back(store)
        assert slow.taken == [b"one"]
        assert await slow.head("a") is None

    asyncio.run(act())


def test_what_a_put_waits_for_is_not_the_stores_to_answer_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = patience(monkeypatch, usual=SOON)
    clock.step = 0.0

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one", b"two"):
            clock.now += 10 * SOON
            await asyncio.sleep(10 * SOON)  # that nobody gives it up in several looks only waiting can show
            yield part

    async def act() -> None:
        store = bounded(MemoryStorage())
        await store.put("a", parts(), length=6)
        assert bytes(await store.get("a")) == b"onetwo"

    asyncio.run(act())


class Deaf(MemoryStorage):
    """Answers when it may, whoever waits no more: as a thread does that the kernel holds."""

    def __init__(self) -> None:
        super().__init__("deaf")
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def head(self, key: str) -> Any:
        self.asked.set()
        while not self.go.is_set():
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                continue
        return await super().head(key)


def test_who_is_told_to_stop_does_not_wait_for_what_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, hurry=SOON)

    async def act() -> None:
        deaf = Deaf()
        store = bounded(deaf)
        asking = asyncio.create_task(store.head("a"))
        await deaf.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert store.is_held
        deaf.go.set()
        await back(store)

    asyncio.run(act())


def test_in_a_hurry_what_is_under_way_is_left_behind_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, hurry=SOON)

    async def act() -> None:
        deaf = Deaf()
        store = bounded(deaf)
        asking = asyncio.create_task(store.head("a"))
        await deaf.asked.wait()
        store.is_hurried = True
        with pytest.raises(TransientError, match="deaf"):
            await asking
        deaf.go.set()
        await back(store)

    asyncio.run(act())


def test_a_read_into_memory_of_the_callers_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would be written to when that is somebody else's."""
    clock = patience(monkeypatch, usual=SOON, hurry=SOON)
    clock.step = 0.0

    async def act() -> None:
        gated = GatedStorage(MemoryStorage())
        store = bounded(gated)
        await store.put("a", [b"x"])
        gate, target = gated.hold("get", "a"), bytearray(1)
        reading = asyncio.create_task(store.get("a", into=target))
        clock.now += 10 * SOON
        await asyncio.sleep(10 * SOON)
        assert not reading.done()
        gate.open()
        await reading
        assert target == b"x"

    asyncio.run(act())


def test_it_is_what_it_bounds(tmp_path: Path) -> None:
    disk, memory = LocalStorage(tmp_path), MemoryStorage("m")
    for kind in (Opening, Linking):
        assert isinstance(bounded(disk), kind)
        assert not isinstance(bounded(memory), kind)
    assert recipe_of(bounded(disk)) == recipe_of(disk)
    assert recipe_of(bounded(memory)) is None
    assert (again := bounded(disk)) is bounded(again)
    assert bounded(disk).url == disk.url
    assert bounded_.unbounded(again) is disk

    async def ended(work: Coroutine[Any, Any, None]) -> None:
        await work

    asyncio.run(ended(bounded(disk).aclose()))
