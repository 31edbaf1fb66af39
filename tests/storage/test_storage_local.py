"""What the local storage does beyond the contract: its root, folders, links and fallbacks."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from asyncckpt.errors import (
    ObjectNotFound,
    StorageDenied,
    StorageError,
    TransientError,
)
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import PutMode, Storage
from asyncckpt.storage.files import Files
from asyncckpt.testing import files as poorer
from asyncckpt.testing.files import FailingFiles
from asyncckpt.testing.recording import RecordingFiles, SyncEffect
from asyncckpt.testing.stepping import count_calls, interleave
from asyncckpt.testing.store import aligned, keys, unfinished, use
from tests.storage.disk import BIG, everything

# -- the root ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", [name for name in (*READINGS, *WRITINGS) if name != "delete"])
def test_a_root_that_is_a_link_to_nothing_is_denied_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StorageDenied, match=r"link: this symbolic link leads nowhere; make what it leads to, or"):
        use(LocalStorage(tmp_path / "link"), (READINGS | WRITINGS)[name])
    assert everything(tmp_path) == ["link"]


@pytest.mark.parametrize("act", WRITINGS.values(), ids=WRITINGS)
def test_a_root_below_a_link_to_nothing_names_the_link(
    tmp_path: Path, act: Callable[[Storage], Awaitable[object]]
) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StorageDenied, match="link: this symbolic link leads nowhere"):
        use(LocalStorage(tmp_path / "link/deep/run"), act)


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


# -- folders ----------------------------------------------------------------------------------------


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


# -- listing ----------------------------------------------------------------------------------------


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


# -- links and fallbacks ----------------------------------------------------------------------------


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
        (poorer.WithoutExclusiveCreate, "publish", r"not exclusive.*Claimed: a second create succeeded"),
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
