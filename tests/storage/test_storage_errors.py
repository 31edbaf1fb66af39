"""Any call may fail: nothing is torn, nothing is retried on the same file, and the error says what is known."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from asyncckpt.errors import (
    OutcomeUnknown,
    StorageDenied,
    StorageError,
)
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage
from asyncckpt.storage.files import Files
from asyncckpt.testing import files as poorer
from asyncckpt.testing.files import FailingFiles
from asyncckpt.testing.store import aligned, content, stream, unfinished, use
from tests.storage.disk import BIG, everything

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
    assert everything(tmp_path) == []


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["open", "status"])
def test_a_failing_open_leaves_nothing_open(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(StorageDenied, match="permission denied; give this user access"):
        LocalStorage(tmp_path, files=FailingFiles(name, errno.EACCES)).open("a")
    assert str(tmp_path / "a") not in held()


def held() -> set[str]:
    """What this process has open; other threads may close and open more meanwhile."""
    found = set[str]()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(link))
    return found
