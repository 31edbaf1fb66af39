"""Threads: the loop never waits for a disk, and nothing is closed under a running call."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import StorageError, TransientError
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage
from asyncckpt.storage.files import Files
from asyncckpt.testing.files import Call, WatchedFiles
from asyncckpt.testing.store import aligned, content, keys, stream, unfinished, use
from tests.checkpointer.trainings import refuse_threads
from tests.storage.disk import BIG, everything


def test_the_event_loop_never_touches_the_disk(tmp_path: Path) -> None:
    class Watching(WatchedFiles):
        def around(self, call: Call) -> Any:
            assert threading.current_thread().name.startswith("asyncckpt-"), call
            return super().around(call)

    async def act(store: LocalStorage) -> None:
        await store.probe()
        await store.put("a/b", [b"x"])
        await store.put("a/c", aligned([BIG, 5]), mode="create")
        await store.put("a/d", stream([b"x"]))
        assert await content(store, "a/b") == b"x"
        assert len(await store.get("a/c")) == BIG + 5
        assert await keys(store) == ["a/b", "a/c", "a/d"]
        await store.head("a/b")
        await store.link("latest", "a/b")
        await store.delete(["a/b"])
        await unfinished(store)
        with pytest.raises(ZeroDivisionError):
            await store.put("a/b", (bytes([1 // 0]) async for _ in stream([b""])))

    before = set(threading.enumerate())  # what other tests have left open has threads too
    store = LocalStorage(tmp_path, files=Watching())
    use(store, lambda _: act(store))
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("asyncckpt-")]


class Holding(WatchedFiles):
    """Holds calls of one name until `go`, fails them then if asked to, and notes the calls done."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        super().__init__()
        self.name, self.fails, self.done = name, fails, list[str]()
        self.held, self.go = threading.Event(), threading.Event()

    def around(self, call: Call) -> Any:
        if call.name == self.name:
            self.held.set()
            self.go.wait(60)
            if self.fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        result = super().around(call)
        self.done.append(call.name)
        return result


async def cancel_while_held(files: Holding, action: Awaitable[object]) -> None:
    """Cancel `action` twice while its thread is in the held call, then let that go on."""
    task = asyncio.ensure_future(action)
    await asyncio.to_thread(files.held.wait, 60)
    before = list(files.done)
    for _ in range(2):
        task.cancel()
        await asyncio.wait([task], timeout=0)
    assert not task.done()
    assert files.done == before
    files.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("name", ["create", "write"])
def test_a_cancelled_put_waits_for_its_thread(tmp_path: Path, name: str) -> None:
    # Closing the descriptor under a running write would let that write hit whatever file gets the number next.
    files = Holding(name)
    use(LocalStorage(tmp_path, files=files), lambda store: cancel_while_held(files, store.put("a", aligned([BIG]))))
    assert files.done[-2:] == ["close", "unlink"]
    assert everything(tmp_path) == []


def test_a_failure_after_the_cancellation_is_not_left_lying(tmp_path: Path) -> None:
    complaints: list[dict[str, Any]] = []

    async def act(store: Storage) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await cancel_while_held(files, store.put("a", aligned([BIG])))

    files = Holding("write", fails=True)
    use(LocalStorage(tmp_path, files=files), act)
    gc.collect()
    assert complaints == []
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "size"), [*((name, 3) for name in ("create", "write", "sync", "replace")), ("sync", BIG), ("replace", BIG)]
)
def test_a_small_put_cancelled_or_any_while_publishing_is_there(tmp_path: Path, name: str, size: int) -> None:
    files, parts = Holding(name), aligned([size])
    content = bytes(parts[0])
    use(LocalStorage(tmp_path, files=files), lambda store: cancel_while_held(files, store.put("a", parts)))
    assert files.done[-2:] == ["replace", "sync_folder"]
    assert (tmp_path / "a").read_bytes() == content
    assert everything(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [3, 40 * 1024 * 1024])
@pytest.mark.parametrize("name", ["open", "read"])
def test_a_cancelled_get_waits_for_its_threads(tmp_path: Path, name: str, size: int) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    files = Holding(name)
    use(LocalStorage(tmp_path, files=files), lambda store: cancel_while_held(files, store.get("a")))
    assert files.done[-1] == "close"
    assert files.done.count("open") == files.done.count("close") == 1


@pytest.mark.parametrize("name", ["asyncckpt-io_0", "asyncckpt-probe_1"])
def test_where_no_thread_is_to_be_had_that_is_said_and_nobody_waits_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    refuse_threads(monkeypatch, name)

    async def act(store: Storage) -> None:
        with pytest.raises(TransientError, match="can't start new thread"):
            await store.probe()

    use(LocalStorage(tmp_path), act)
    assert everything(tmp_path) == []


def test_with_one_thread_there_is_no_need_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(store: Storage) -> None:
        await store.put("a", [b"x"])
        for number in (1, 2, 3):
            refuse_threads(monkeypatch, f"asyncckpt-io_{number}")
        assert [bytes(found) for found in await asyncio.gather(*(store.get("a") for _ in range(9)))] == [b"x"] * 9

    use(LocalStorage(tmp_path), act)


def test_a_failing_read_waits_for_the_others(tmp_path: Path) -> None:
    class OneFails(Files):
        def __init__(self) -> None:
            super().__init__()
            self.reading = threading.Barrier(2)
            self.failed = threading.Event()
            self.finished = list[int]()

        def read(self, descriptor: int, into: memoryview, offset: int) -> int:
            self.reading.wait(60)
            if offset == 0:
                self.failed.set()
                raise OSError(errno.EIO, "bad sector")
            self.failed.wait(60)
            got = super().read(descriptor, into, offset)
            self.finished.append(got)
            return got

    (tmp_path / "a").write_bytes(bytes(32 * 1024 * 1024))
    files = OneFails()
    store = LocalStorage(tmp_path, files=files)

    async def act(store: Storage) -> None:
        with pytest.raises(StorageError, match="bad sector"):
            await store.get("a")
        assert files.finished == [16 * 1024 * 1024]

    use(store, act)
