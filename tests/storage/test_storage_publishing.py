"""Creating exclusively: which way is chosen on which file system, and that it is found out by trying."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import ObjectExists, StorageDenied, StorageError
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Exclusive, Storage
from asyncckpt.storage.files import Files
from asyncckpt.storage.publish import meant_for, temporary
from asyncckpt.testing import files as poorer
from asyncckpt.testing.files import Call, FailingFiles, WatchedFiles
from asyncckpt.testing.stepping import count_calls, interleave
from asyncckpt.testing.store import content, unfinished, use


class Counting(WatchedFiles):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def around(self, call: Call) -> Any:
        self.calls.append(call.name)
        return super().around(call)


class WithoutTmpfile(poorer.WithoutTmpfile, Counting):
    pass


class WithoutLinks(poorer.WithoutLinks, Counting):
    pass


class WithoutNames(poorer.WithoutLinks, poorer.WithoutNoReplace, Counting):
    pass


class WithoutExclusiveCreate(poorer.WithoutExclusiveCreate, Counting):
    pass


@pytest.mark.parametrize(
    ("files", "published", "gives"),
    [
        (Counting, ["create_unnamed", "write", "sync", "link_unnamed", "close"], "whole"),
        (WithoutTmpfile, ["create", "write", "sync", "close", "link", "unlink"], "whole"),
        (WithoutLinks, ["create", "write", "sync", "close", "rename"], "whole"),
        (WithoutNames, ["create", "write", "sync", "close", "create", "close", "replace"], "torn"),
    ],
)
def test_the_best_way_that_holds_is_chosen_once(
    tmp_path: Path, files: Callable[[], Counting], published: list[str], gives: Exclusive
) -> None:
    watched = files()

    async def act(store: Storage) -> None:
        assert await store.probe() == gives
        for key in ("a", "b"):
            watched.calls.clear()
            await store.put(key, [b"x"], mode="create")
            assert watched.calls == [*published, "sync_folder"]

    use(LocalStorage(tmp_path, files=watched), act)


def test_without_exclusion_creates_are_refused(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path, files=WithoutExclusiveCreate())

    async def act(_: Storage) -> None:
        assert await store.probe() == "none"
        with pytest.raises(StorageDenied, match=r"cannot create exclusively.*a second create succeeded"):
            await store.put("a", [b"x"], mode="create")
        await store.put("a", [b"x"])

    use(store, act)


def test_two_creates_at_once_are_tried_too(tmp_path: Path) -> None:
    class CheckThenAct(poorer.WithoutLinks, poorer.WithoutNoReplace):
        """Looks first and creates then, as some network file systems do."""

        def __init__(self) -> None:
            super().__init__()
            self.both_looked = threading.Barrier(2)

        def create(self, path: str) -> int:
            if os.path.exists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            if threading.current_thread().name.startswith("asyncckpt-probe"):
                self.both_looked.wait(60)
            return os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)

    store = LocalStorage(tmp_path, files=CheckThenAct())
    assert use(store, lambda store: store.probe()) == "none"
    assert "Claimed: two creates at once succeeded" in store.fallbacks["publish"]


def test_a_full_disk_says_nothing_about_links(tmp_path: Path) -> None:
    async def act(store: Storage) -> None:
        with pytest.raises(StorageDenied, match="no space left"):
            await store.put("a", [b"x"], mode="create")
        assert await store.probe() == "whole"

    store = LocalStorage(tmp_path, files=FailingFiles("link_unnamed", errno.ENOSPC))
    use(store, act)
    assert store.fallbacks == {}


def test_a_root_that_cannot_be_written_is_denied(tmp_path: Path) -> None:
    files = FailingFiles("create", errno.EACCES)
    with pytest.raises(StorageDenied, match="permission denied"):
        use(LocalStorage(tmp_path, files=files), lambda store: store.probe())


def test_two_first_starts_do_not_disturb_each_other(tmp_path: Path) -> None:
    """One tidies up the root that it made for its probe while the other probes in it."""

    def probe(root: Path, files: Files) -> tuple[Exclusive, dict[str, str]]:
        store = LocalStorage(root, files=files)
        return use(store, lambda store: store.probe()), dict(store.fallbacks)

    for step in range(count_calls(partial(probe, tmp_path / "count"))):
        root = tmp_path / f"stopped-before-{step}"
        both = interleave(partial(probe, root), partial(probe, root, Files()), stop_before=step)
        assert both == (("whole", {}), ("whole", {}))
        assert not root.exists()


def test_the_torn_way_is_whole_for_whoever_waits(tmp_path: Path) -> None:
    async def act(store: Storage) -> None:
        await store.put("a", [b"first"], mode="create")
        with pytest.raises(ObjectExists):
            await store.put("a", [b"second"], mode="create")
        assert await content(store, "a") == b"first"

    use(LocalStorage(tmp_path, files=poorer.WithoutAnything()), act)


def test_the_torn_way_takes_back_what_it_could_not_finish(tmp_path: Path) -> None:
    class Failing(poorer.WithoutAnything, FailingFiles):
        pass

    with pytest.raises(StorageError):
        use(
            LocalStorage(tmp_path, files=Failing("sync", errno.EIO)),
            lambda store: store.put("a", [b"x"], mode="create"),
        )
    assert os.listdir(tmp_path) == []


def test_the_torn_way_never_completes_what_was_aborted(tmp_path: Path) -> None:
    """Whoever removed the temporary goes past the name, and counts on it being taken for ever."""

    class Stopping(poorer.WithoutAnything):
        def replace(self, source: str, target: str) -> None:
            if not target.endswith("probe"):
                use(LocalStorage(tmp_path), abort_all)
            super().replace(source, target)

    async def abort_all(store: Storage) -> None:
        for upload in await unfinished(store, "a"):
            await store.abort(upload)

    async def act(store: Storage) -> None:
        with pytest.raises(ObjectExists):
            await store.put("a", [b"x"], mode="create")
        assert await content(store, "a") == b""
        assert await unfinished(store) == []

    use(LocalStorage(tmp_path, files=Stopping()), act)


def test_a_temporary_tells_what_it_was_meant_for() -> None:
    name = os.path.basename(temporary("/root/folder/0001.json"))
    assert meant_for(name) == "0001.json"
    assert meant_for(os.path.basename(temporary(name))) == "0001.json"
    assert temporary("/a/b") != temporary("/a/b")
    for other in ("0001.json", ".0123456789abcdef.tmp-", ".0123.tmp-x", ".0123456789abcdef.tmp-x/y", ".tmp-x"):
        assert meant_for(other) is None
