"""Bounded: nobody waits for a store that goes on no more, nothing else is asked of it, and its memory may be let go."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import OutcomeUnknown, StorageError, TransientError
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage import bounded as bounded_
from asyncckpt.storage.aside import OpenedAside
from asyncckpt.storage.base import Lasting, Linking, Opening, Storage
from asyncckpt.storage.bounded import Bounded, BoundedDisk, bounded, bounded_reading
from asyncckpt.storage.live import bounded_live
from asyncckpt.storage.recipe import recipe_of
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.testing.storage import LinkingTests, OpeningTests, StorageSuite
from tests.storage.test_storage_threads import Holding

NEVER = 3600.0
SOON = 0.01


class TestBoundedMemory(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self) -> None:
        self.store = bounded(MemoryStorage("suite"))

    def make(self) -> Storage:
        return self.store


class OfADisk(StorageSuite, OpeningTests, LinkingTests):
    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path) -> None:
        self.path = tmp_path / "run"


class TestBoundedDisk(OfADisk):
    def make(self) -> Storage:
        return bounded(LocalStorage(self.path))


class TestBoundedReading(OfADisk):
    def make(self) -> Storage:
        return bounded_reading(LocalStorage(self.path))


class TestBoundedLive(OfADisk):
    def make(self) -> Storage:
        return bounded_live(LocalStorage(self.path))


class Clock:
    """The time for which requests stand still: each look is `step` later, however slow the machine is."""

    def __init__(self) -> None:
        self.now, self.step = 0.0, SOON
        self.goes = threading.Event()
        """It stands until then; a test may put an event of its own here."""
        self.goes.set()

    def monotonic(self) -> float:
        if self.goes.is_set():
            self.now += self.step
        return self.now


def patience(monkeypatch: pytest.MonkeyPatch, *, usual: float = NEVER, hurry: float = NEVER) -> Clock:
    """Nothing here depends on how long that takes: what hangs does so until the test lets it go."""
    clock = Clock()
    monkeypatch.setattr(bounded_, "time", clock)
    monkeypatch.setattr(bounded_, "PATIENCE", usual)
    monkeypatch.setattr(bounded_, "HURRY", hurry)
    monkeypatch.setattr(bounded_, "LOOK", SOON)
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


def test_what_is_read_too_late_does_not_come_into_the_callers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is somebody else's by then."""

    async def act() -> None:
        gated = GatedStorage(MemoryStorage())
        store = bounded(gated)
        await store.put("a", [b"x"])
        gate, target = gated.hold("get", "a"), bytearray(1)
        patience(monkeypatch, usual=SOON)
        with pytest.raises(TransientError, match="get a has not gone on"):
            await store.get("a", length=1, into=target)
        gate.open()
        await back(store)
        assert target == b"\0"
        patience(monkeypatch)
        await store.get("a", length=1, into=target)
        assert target == b"x"

    asyncio.run(act())


def test_what_is_read_into_the_callers_memory_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_, "_PIECE", 3)

    async def act() -> None:
        gated = GatedStorage(MemoryStorage())
        store, target = bounded(gated), bytearray(7)
        await store.put("a", [b"0123456789"])
        await store.get("a", start=2, length=7, into=target)
        assert target == b"2345678"
        assert gated.count("get") == 3

    asyncio.run(act())


def until(is_so: Callable[[], bool]) -> None:
    """Return once it is; what hangs was let go before."""
    while not is_so():
        time.sleep(SOON / 10)


def test_a_piece_that_is_read_too_late_does_not_come_there_either_and_closes_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    patience(monkeypatch)
    (tmp_path / "a").write_bytes(b"x")
    files = Holding("read")
    store = bounded(LocalStorage(tmp_path, files=files))
    assert isinstance(store, BoundedDisk)
    opened, target = store.open("a"), memoryview(bytearray(1))
    patience(monkeypatch, usual=SOON).goes = files.held  # what is left before it was begun is never read
    with pytest.raises(TransientError, match="get a has not gone on"):
        opened.fill(target, 0)
    with pytest.raises(TransientError, match="nothing else is asked of it"):
        opened.fill(target, 0)
    opened.close()
    files.go.set()
    until(lambda: files.done == ["open", "status", "read", "close"])
    until(lambda: not store.is_held)
    assert target == b"\0"


class Opened:
    """Reads when it may."""

    def __init__(self) -> None:
        self.reading, self.go, self.closed = threading.Event(), threading.Event(), 0

    def fill(self, into: memoryview, start: int) -> None:
        self.reading.set()
        assert self.go.wait(NEVER)

    def close(self) -> None:
        self.closed += 1


def test_what_is_closed_while_it_is_read_is_closed_once_it_was() -> None:
    """Or its descriptor is another file's by then, and the read goes on there."""
    opened, threads = Opened(), list[threading.Thread]()

    def wait(act: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=act))
        threads[0].start()
        opened.reading.wait()
        raise TransientError("nobody waits")

    aside = OpenedAside(opened, wait, lambda close: close())
    with pytest.raises(TransientError):
        aside.fill(memoryview(bytearray(1)), 0)
    aside.close()
    aside.close()
    assert opened.closed == 0
    opened.go.set()
    threads[0].join()
    assert opened.closed == 1
    with pytest.raises(StorageError, match="closed"):
        aside._read(memoryview(b""), 0)


def test_a_file_that_is_opened_too_late_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patience(monkeypatch, usual=SOON)
    (tmp_path / "a").write_bytes(b"x")
    files = Holding("open")
    store = bounded(LocalStorage(tmp_path, files=files))
    assert isinstance(store, BoundedDisk)
    with pytest.raises(TransientError, match="open a has not gone on"):
        store.open("a")
    files.go.set()
    until(lambda: files.done == ["open", "status", "close"])


def test_what_is_open_is_read_in_pieces_and_closed_also_after_the_end(tmp_path: Path) -> None:
    data = os.urandom(5 << 19)
    (tmp_path / "a").write_bytes(data)
    files = Holding("nothing")
    store = bounded(LocalStorage(tmp_path, files=files))
    assert isinstance(store, BoundedDisk)
    opened, target = store.open("a"), memoryview(bytearray(len(data) - 7))
    opened.fill(target, 7)
    assert target == data[7:]
    asyncio.run(store.aclose())
    opened.close()
    assert files.done[-1] == "close"


def test_what_blocks_is_left_behind_and_holds_up_no_loop_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, usual=SOON)
    go, store = threading.Event(), bounded(MemoryStorage("m"))

    async def act() -> None:
        with pytest.raises(TransientError, match="free space has not gone on"):
            await store.blocking("free space", go.wait)

    loop = asyncio.new_event_loop()
    left: set[asyncio.Task[Any]] = set()
    try:
        loop.run_until_complete(act())
        left = asyncio.all_tasks(loop)
        loop.run_until_complete(loop.shutdown_default_executor())
        assert store.is_held
        go.set()
        loop.run_until_complete(back(store))
    finally:
        go.set()
        loop.run_until_complete(asyncio.gather(*left))
        loop.close()


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
