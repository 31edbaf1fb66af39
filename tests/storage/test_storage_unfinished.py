"""What puts leave behind that failed, were killed, or did not keep their length."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncckpt.errors import (
    StorageError,
    TransientError,
)
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage.base import Storage, UploadInfo
from asyncckpt.testing.files import FailingFiles
from asyncckpt.testing.store import content, forever, keys, stream, unfinished, use
from tests.storage.disk import BIG, everything


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
    [
        "",
        "/",
        "//",
        "../",
        "a/../",
        ".a/",
        "a/b",
        "../x",
        ".0123456789abcdef.tmp-../x",
        "../.0123456789abcdef.tmp-x",
        "a/../.0123456789abcdef.tmp-x",
    ],
)
def test_only_temporaries_below_the_root_can_be_aborted(tmp_path: Path, upload: str) -> None:
    (tmp_path / "run/a").mkdir(parents=True)
    for path in ("run/a/b", "x", ".0123456789abcdef.tmp-x", "run/.0123456789abcdef.tmp-x"):
        (tmp_path / path).write_bytes(b"x")
    before = everything(tmp_path)
    with pytest.raises(StorageError, match="not an upload of this store"):
        use(LocalStorage(tmp_path / "run"), lambda store: store.abort(UploadInfo("a/b", upload)))
    assert everything(tmp_path) == before


def test_a_folder_that_stands_empty_is_listed_and_aborted(tmp_path: Path) -> None:
    for folder in ("a/b/c", "d/e", "f", ".hidden", "Odd"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "d/there").write_bytes(b"x")

    async def act(store: Storage) -> None:
        found = await unfinished(store)
        assert [upload.key for upload in found] == ["a/b/c/", "d/e/", "f/"]
        assert [upload.key for upload in await unfinished(store, "d")] == ["d/e/"]
        assert await keys(store) == ["d/there"]
        await store.put("f/new", [b"x"])
        for upload in [*found, *found]:
            await store.abort(upload)
        assert await unfinished(store) == []
        assert await keys(store) == ["d/there", "f/new"]

    use(LocalStorage(tmp_path), act)
    assert everything(tmp_path) == [".hidden", "Odd", "d", "d/there", "f", "f/new"]


def test_a_put_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    files = FailingFiles("sync", errno.EIO)
    with pytest.raises(StorageError, match="Input/output"):
        use(LocalStorage(tmp_path / "run", files=files), lambda store: store.put("a/b/c", [b"x"]))
    assert everything(tmp_path) == ["run"]


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
