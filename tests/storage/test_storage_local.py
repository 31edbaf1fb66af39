"""What the local storage does beyond the contract: its folders, temporaries, links, threads and errors."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import (
    ObjectNotFound,
    OutcomeUnknown,
    StorageDenied,
    StorageError,
    TransientError,
)
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage.base import PutMode, Storage, UploadInfo
from asyncckpt.storage.files import Files
from asyncckpt.testing import files as poorer
from asyncckpt.testing.files import Call, FailingFiles, WatchedFiles
from asyncckpt.testing.recording import RecordingFiles, SyncEffect
from asyncckpt.testing.stepping import count_calls, interleave
from asyncckpt.testing.store import aligned, content, forever, keys, stream, unfinished, use

BIG = 2 * 1024 * 1024


def everything(root: Path) -> list[str]:
    """Every name below `root`, hidden ones too."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# -- the root ------------------------------------------------------------------------------------


READINGS: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "list": keys,
    "list below": lambda store: keys(store, "commits/"),
    "uploads": unfinished,
    "head": lambda store: store.head("a/b"),
    "get": lambda store: store.get("a/b"),
    "delete": lambda store: store.delete(["a/b"]),
}
WRITINGS: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "put": lambda store: store.put("a/b", [b"x"]),
    "put at the top": lambda store: store.put("a", [b"x"]),
    "create": lambda store: store.put("a/b", [b"x"], mode="create"),
    "probe": lambda store: store.probe(),
}


@pytest.mark.parametrize("act", READINGS.values(), ids=READINGS)
def test_reading_never_makes_the_root(tmp_path: Path, act: Callable[[Storage], Awaitable[object]]) -> None:
    async def quietly(store: Storage) -> None:
        with suppress(ObjectNotFound):
            await act(store)

    use(LocalStorage(tmp_path / "run"), quietly)
    assert everything(tmp_path) == []


def test_probe_leaves_nothing_behind_not_even_the_root(tmp_path: Path) -> None:
    for files in (Files(), poorer.WithoutAnything(), poorer.WithoutExclusiveCreate()):
        use(LocalStorage(tmp_path / "far/run", files=files), lambda store: store.probe())
        assert everything(tmp_path) == []


@pytest.mark.parametrize("act", [*READINGS.values(), *WRITINGS.values()], ids=[*READINGS, *WRITINGS])
@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_root_that_is_a_file_is_denied_by_name(
    tmp_path: Path, root: str, act: Callable[[Storage], Awaitable[object]]
) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(StorageDenied, match=r"file.* is a file, not a folder; remove that file") as caught:
        use(LocalStorage(tmp_path / root), act)
    assert str(tmp_path / "file") in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_the_root_may_be_relative_a_link_or_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = LocalStorage("link")
    monkeypatch.chdir("/")

    async def act(store: Storage) -> None:
        await store.put("a/b", [b"x"])
        assert await keys(store) == ["a/b"]

    use(store, act)
    assert store.url == str(tmp_path / "link")
    assert (tmp_path / "real/a/b").read_bytes() == b"x"


# -- folders -------------------------------------------------------------------------------------


def test_delete_removes_empty_folders_but_never_the_root(tmp_path: Path) -> None:
    async def act(store: Storage) -> None:
        for key in ("a/b/c/1", "a/b/c/2", "a/d/1", "e/1"):
            await store.put(key, [b"x"])
        await store.delete(["a/b/c/1"])
        assert everything(tmp_path) == ["a", "a/b", "a/b/c", "a/b/c/2", "a/d", "a/d/1", "e", "e/1"]
        await store.delete(["a/b/c/2", "e/1"])
        assert everything(tmp_path) == ["a", "a/d", "a/d/1"]
        await store.delete(["a/d/1"])
        assert everything(tmp_path) == []

    use(LocalStorage(tmp_path), act)
    assert tmp_path.is_dir()


def test_delete_removes_the_folders_that_a_killed_delete_left(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    use(LocalStorage(tmp_path), lambda store: store.delete(["a/b/1", "c/d/1"]))
    assert everything(tmp_path) == []


def test_delete_syncs_each_folder_once(tmp_path: Path) -> None:
    files = RecordingFiles(tmp_path)

    async def act(store: Storage) -> None:
        for key in ("a/1", "a/2", "a/3", "b/c/1", "b/c/2", "b/stays"):
            await store.put(key, [b"x"])
        files.effects.clear()
        await store.delete(["a/1", "a/2", "b/c/1", "b/c/2"])

    use(LocalStorage(tmp_path, files=files), act)
    synced = [effect.what for effect in files.effects if isinstance(effect, SyncEffect)]
    assert sorted(map(str, synced)) == ["a", "b"]


def test_delete_tries_all_before_it_raises_the_first_failure(tmp_path: Path) -> None:
    files = FailingFiles("unlink", errno.EACCES, pattern="*/b*", times=2)

    async def act(store: Storage) -> None:
        for key in ("a", "b1", "b2", "c"):
            await store.put(key, [b"x"])
        with pytest.raises(StorageDenied, match="/b1: permission denied") as caught:
            await store.delete(["a", "b1", "b2", "c"])
        assert isinstance(caught.value.__cause__, PermissionError)
        assert await keys(store) == ["b1", "b2"]

    use(LocalStorage(tmp_path, files=files), act)


@pytest.mark.parametrize("mode", ["overwrite", "create"])
@pytest.mark.parametrize("there", [True, False])
def test_a_put_survives_a_delete_in_its_folder_at_any_point(tmp_path: Path, mode: PutMode, there: bool) -> None:
    """The delete empties the folder, or finds it empty just after the put made it."""

    def fresh(name: str) -> Path:
        if there:
            (tmp_path / name / "a/b").mkdir(parents=True)
            (tmp_path / name / "a/b/old").write_bytes(b"old")
        return tmp_path / name

    def put(root: Path, files: Files) -> None:
        use(LocalStorage(root, files=files), lambda store: store.put("a/b/new", [b"new"], mode=mode))

    def delete(root: Path) -> None:
        use(LocalStorage(root), lambda store: store.delete(["a/b/old"]))

    for step in range(count_calls(partial(put, fresh("count")))):
        root = fresh(f"stopped-before-{step}")
        interleave(partial(put, root), partial(delete, root), stop_before=step)
        assert everything(root) == ["a", "a/b", "a/b/new"], step


def test_a_put_may_be_deleted_before_it_returns(tmp_path: Path) -> None:
    def put(root: Path, files: Files) -> None:
        use(LocalStorage(root, files=files), lambda store: store.put("a/b", [b"new"]))

    def delete(root: Path) -> None:
        use(LocalStorage(root), lambda store: store.delete(["a/b"]))

    for step in range(count_calls(partial(put, tmp_path / "count"))):
        root = tmp_path / f"stopped-before-{step}"
        interleave(partial(put, root), partial(delete, root), stop_before=step)
        assert everything(root) in ([], ["a", "a/b"])


def test_a_folder_that_is_always_removed_is_worth_another_try_later(tmp_path: Path) -> None:
    class Vanishing(Files):
        def mkdir(self, path: str) -> None:
            super().mkdir(path)
            os.rmdir(path)

    with pytest.raises(TransientError, match="keeps removing") as caught:
        use(LocalStorage(tmp_path, files=Vanishing()), lambda store: store.put("a/b", [b"x"]))
    assert caught.value.errno == errno.ENOENT
    assert everything(tmp_path) == []


# -- listing -------------------------------------------------------------------------------------


def test_listing_passes_over_links_and_strange_names(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    root = tmp_path / "run"
    (root / "lost+found").mkdir(parents=True)
    (root / "lost+found/1").write_bytes(b"x")
    (root / "Notes.txt").write_bytes(b"x")
    (root / ".hidden").mkdir()
    (root / ".hidden/a").write_bytes(b"x")
    (root / "folder").symlink_to("../outside")
    (root / "file").symlink_to("../outside/secret")
    os.mkfifo(root / "pipe")

    async def act(store: Storage) -> None:
        await store.put("a/b", [b"x"])
        assert await keys(store) == ["a/b"]
        assert await unfinished(store) == []
        assert await store.head("file") is None
        for key in ("file", "a"):
            with pytest.raises(ObjectNotFound):
                await store.get(key)

    use(LocalStorage(root), act)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "data/x").mkdir(parents=True)
    files = FailingFiles("scan", errno.EACCES, pattern="*/data/x")
    with pytest.raises(StorageDenied, match=r"data/x: permission denied; give this user access"):
        use(LocalStorage(tmp_path, files=files), keys)


def test_a_folder_removed_while_it_is_listed_is_empty(tmp_path: Path) -> None:
    async def act(store: Storage) -> None:
        await store.put("a/b", [b"x"])
        await store.put("c/d", [b"x"])
        assert await keys(store) == ["a/b"]

    use(LocalStorage(tmp_path, files=FailingFiles("scan", errno.ENOENT, pattern="*/c")), act)


# -- unfinished puts -----------------------------------------------------------------------------


def test_what_a_killed_put_left_is_listed_and_aborted(tmp_path: Path) -> None:
    crashed = LocalStorage(tmp_path, files=FailingFiles("unlink", errno.EIO, pattern="*.tmp-*"))

    async def crash(store: Storage) -> None:
        halfway = asyncio.Event()
        put = asyncio.create_task(store.put("a/b", forever(halfway)))
        await halfway.wait()
        put.cancel()
        await asyncio.wait([put])

    async def tidy(store: Storage) -> None:
        assert await keys(store) == []
        (upload,) = await unfinished(store)
        assert upload.key == "a/b"
        await store.abort(upload)
        await store.abort(upload)
        assert await unfinished(store) == []

    use(crashed, crash)
    use(LocalStorage(tmp_path), tidy)
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    "upload",
    ["a/b", "../x", ".0123456789abcdef.tmp-../x", "../.0123456789abcdef.tmp-x", "a/../.0123456789abcdef.tmp-x", ""],
)
def test_only_temporaries_below_the_root_can_be_aborted(tmp_path: Path, upload: str) -> None:
    (tmp_path / "run/a").mkdir(parents=True)
    for path in ("run/a/b", "x", ".0123456789abcdef.tmp-x", "run/.0123456789abcdef.tmp-x"):
        (tmp_path / path).write_bytes(b"x")
    before = everything(tmp_path)
    with pytest.raises(StorageError, match="not an upload of this store"):
        use(LocalStorage(tmp_path / "run"), lambda store: store.abort(UploadInfo("a/b", upload)))
    assert everything(tmp_path) == before


def test_a_put_whose_temporary_was_swept_away_fails(tmp_path: Path) -> None:
    async def act(store: Storage) -> None:
        halfway, more = asyncio.Event(), asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            yield bytes(BIG)
            halfway.set()
            await more.wait()

        put = asyncio.create_task(store.put("a/b", parts()))
        await halfway.wait()
        for upload in await unfinished(store):
            await store.abort(upload)
        more.set()
        with pytest.raises(TransientError):
            await put
        assert await keys(store) == []

    use(LocalStorage(tmp_path), act)


@pytest.mark.parametrize("announced", [2, 4])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("local", [True, False])
def test_a_length_that_is_not_kept_fails_the_put(tmp_path: Path, announced: int, streamed: bool, local: bool) -> None:
    async def act(store: Storage) -> None:
        await store.put("a", [b"old"])
        with pytest.raises(StorageError, match=f"{announced} bytes were announced, but there are 3"):
            await store.put("a", stream([b"new"]) if streamed else [b"new"], length=announced)
        assert await content(store, "a") == b"old"

    use(LocalStorage(tmp_path) if local else MemoryStorage(), act)
    assert everything(tmp_path) == ["a"] * local


# -- faults --------------------------------------------------------------------------------------

PUT_CALLS = ["create", "reserve", "write", "truncate", "sync", "close", "replace", "sync_folder"]


@pytest.mark.parametrize("name", PUT_CALLS)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_any_call_of_a_put_may_fail(tmp_path: Path, name: str, number: int) -> None:
    files = FailingFiles(name, number, pattern="*/a/*" if name != "sync_folder" else "*/a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"old")
    unknown = name == "sync_folder" or (name in ("close", "replace") and number == errno.EIO)
    expected = OutcomeUnknown if unknown else StorageDenied if number == errno.ENOSPC else StorageError

    async def act(store: Storage) -> None:
        with pytest.raises(expected) as caught:
            await store.put("a/b", stream(aligned([8192 + 5])), length=8192 + 5)
        assert type(caught.value) is expected
        assert caught.value.errno == number
        assert isinstance(caught.value.__cause__, OSError)
        assert str(tmp_path / "a/b") in str(caught.value)

    use(LocalStorage(tmp_path, files=files), act)
    assert everything(tmp_path) == ["a", "a/b"]
    assert ((tmp_path / "a/b").read_bytes() == b"old") == (name != "sync_folder")
    # L2: a file whose write or sync failed is given up; a second sync may claim success for lost pages.
    assert files.matched == 1


def test_the_next_put_after_a_fault_succeeds(tmp_path: Path) -> None:
    async def act(store: Storage) -> None:
        with pytest.raises(StorageError):
            await store.put("a", [b"new"])
        await store.put("a", [b"new"])
        assert await content(store, "a") == b"new"

    use(LocalStorage(tmp_path, files=FailingFiles("sync", errno.EIO)), act)


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT])
def test_a_link_whose_reply_was_lost_is_found_by_its_count(tmp_path: Path, number: int) -> None:
    class Remote(poorer.WithoutTmpfile, FailingFiles):
        pass

    async def act(store: Storage) -> None:
        await store.put("a/b", [b"x"], mode="create")
        assert await content(store, "a/b") == b"x"
        assert await unfinished(store) == []

    use(LocalStorage(tmp_path, files=Remote("link", number, pattern="*/a/b", applied=True)), act)


@pytest.mark.parametrize("name", ["link", "link_unnamed"])
def test_a_create_that_may_have_happened_is_unknown(tmp_path: Path, name: str) -> None:
    class Remote(poorer.WithoutTmpfile, FailingFiles):
        pass

    kind = FailingFiles if name == "link_unnamed" else Remote
    files = kind(name, errno.EIO, pattern="*/a/b")
    with pytest.raises(OutcomeUnknown, match="read the object to find out"):
        use(LocalStorage(tmp_path, files=files), lambda store: store.put("a/b", [b"x"], mode="create"))
    assert everything(tmp_path) == ["a"]


def test_a_create_whose_folder_could_not_be_synced_stays(tmp_path: Path) -> None:
    async def act(store: Storage) -> None:
        with pytest.raises(OutcomeUnknown):
            await store.put("a/b", [b"x"], mode="create")
        assert await content(store, "a/b") == b"x"

    use(LocalStorage(tmp_path, files=FailingFiles("sync_folder", errno.EIO, pattern="*/a")), act)


def test_short_writes_and_reads_of_small_objects_are_continued(tmp_path: Path) -> None:
    class Dribbling(Files):
        def write(self, descriptor: int, data: memoryview, offset: int) -> int:
            return super().write(descriptor, data[:3], offset)

        def read(self, descriptor: int, into: memoryview, offset: int) -> int:
            return super().read(descriptor, into[:3], offset)

    async def act(store: Storage) -> None:
        await store.put("a", [b"0123456789"])
        assert await content(store, "a") == b"0123456789"

    use(LocalStorage(tmp_path, files=Dribbling()), act)
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_small_write_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    class Stuck(Files):
        def write(self, descriptor: int, data: memoryview, offset: int) -> int:
            return 0

    with pytest.raises(StorageError, match="Input/output error"):
        use(LocalStorage(tmp_path, files=Stuck()), lambda store: store.put("a", [b"x"]))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    class Shrinking(Files):
        def read(self, descriptor: int, into: memoryview, offset: int) -> int:
            return min(super().read(descriptor, into[:5], offset), max(0, 7 - offset))

    async def act(store: Storage) -> None:
        await store.put("a", [b"0123456789"])
        await store.put("big", [bytes(BIG)])
        for key in ("a", "big"):
            with pytest.raises(StorageError, match="shorter"):
                await store.get(key)
        assert bytes(await store.get("a", length=7)) == b"0123456"

    use(LocalStorage(tmp_path, files=Shrinking()), act)


# -- threads -------------------------------------------------------------------------------------


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

    store = LocalStorage(tmp_path, files=Watching())
    use(store, lambda _: act(store))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncckpt-")]


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


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("name", ["create", "write", "sync"])
def test_a_cancelled_put_waits_for_its_thread(tmp_path: Path, name: str, small: bool) -> None:
    # Closing the descriptor under a running write would let that write hit whatever file gets the number next.
    files = Holding(name)
    parts = [b"new"] if small else aligned([BIG])
    use(LocalStorage(tmp_path, files=files), lambda store: cancel_while_held(files, store.put("a", parts)))
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


def test_a_put_cancelled_while_publishing_is_there(tmp_path: Path) -> None:
    files = Holding("replace")
    use(LocalStorage(tmp_path, files=files), lambda store: cancel_while_held(files, store.put("a", [b"new"])))
    assert files.done[-2:] == ["replace", "sync_folder"]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert everything(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [3, 40 * 1024 * 1024])
@pytest.mark.parametrize("name", ["open", "read"])
def test_a_cancelled_get_waits_for_its_threads(tmp_path: Path, name: str, size: int) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    files = Holding(name)
    use(LocalStorage(tmp_path, files=files), lambda store: cancel_while_held(files, store.get("a")))
    assert files.done[-1] == "close"
    assert files.done.count("open") == files.done.count("close") == 1


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


# -- links and fallbacks -------------------------------------------------------------------------


def test_links_are_relative_and_swapped(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path / "run")

    async def act(_: Storage) -> None:
        await store.put("data/1/x", [b"one"])
        await store.put("data/2/x", [b"two"])
        await store.link("latest", "data/1")
        await store.link("latest", "data/2")
        await store.link("by-name/best", "data/1/x")
        with pytest.raises(StorageError, match="an object has this name"):
            await store.link("data/1/x", "data/2/x")
        for name in ("../x", "/x", ".x"):
            with pytest.raises(StorageError, match="not a key"):
                await store.link(name, "data/1")
            with pytest.raises(StorageError, match="not a key"):
                await store.link("y", name)

    use(store, act)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert (tmp_path / "moved/latest/x").read_bytes() == b"two"
    assert (tmp_path / "moved/by-name/best").read_bytes() == b"one"
    assert (tmp_path / "moved/data/1/x").read_bytes() == b"one"


def test_a_link_that_fails_leaves_the_old_one_and_no_temporary(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path, files=FailingFiles("replace", errno.EIO, nth=2))

    async def act(_: Storage) -> None:
        await store.link("latest", "a")
        with pytest.raises(StorageError):
            await store.link("latest", "b")

    use(store, act)
    assert os.listdir(tmp_path) == ["latest"]
    assert os.readlink(tmp_path / "latest") == "a"


def test_a_link_that_fails_for_want_of_space_is_no_missing_feature(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path, files=FailingFiles("symlink", errno.ENOSPC))
    with pytest.raises(StorageDenied, match="no space left"):
        use(store, lambda _: store.link("latest", "a"))
    assert store.fallbacks == {}


@pytest.mark.parametrize(
    ("files", "feature", "reason"),
    [
        (poorer.WithoutDirect, "direct_io", r"refused .*EINVAL.*page cache"),
        (poorer.WithoutPreallocation, "preallocation", r"ENOTSUP|EOPNOTSUPP"),
        (poorer.WithoutLinks, "publish", r"hard links are refused.*Linked: EPERM"),
        (poorer.WithoutExclusiveCreate, "publish", r"not exclusive.*InPlace: a second create succeeded"),
        (poorer.WithoutDirectorySync, "directory_sync", r"EINVAL.*power loss"),
        (poorer.WithoutSymlinks, "symlinks", r"EPERM"),
    ],
)
def test_what_is_missing_is_told(tmp_path: Path, files: type[Files], feature: str, reason: str) -> None:
    store = LocalStorage(tmp_path, files=files())

    async def act(_: Storage) -> None:
        assert store.fallbacks == {}
        await store.put("a/b", aligned([BIG]))
        await store.link("latest", "a")
        await store.probe()

    use(store, act)
    assert list(store.fallbacks) == [feature]
    assert re.search(reason, store.fallbacks[feature])


def test_nothing_is_missing_on_a_good_disk(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path)

    async def act(_: Storage) -> None:
        await store.put("a/b", aligned([BIG]), mode="create")
        await store.link("latest", "a")

    use(store, act)
    assert store.fallbacks == {}
