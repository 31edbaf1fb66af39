"""The file system calls as the storage relies on them, and the poorer file systems made from them."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asyncckpt.storage import LocalStorage
from asyncckpt.storage import files as files_
from asyncckpt.storage.base import Storage
from asyncckpt.storage.files import Entry, Files
from asyncckpt.testing.files import Call, FailingFiles, WatchedFiles
from asyncckpt.testing.store import aligned, keys, unfinished, use


def name_of(error: OSError) -> str:
    return errno.errorcode[error.errno or 0]


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "taken").write_bytes(b"taken")
    (tmp_path / "source").write_bytes(b"source")
    (tmp_path / "link").symlink_to("source")
    return f"{tmp_path}/"


EXCLUSIVE: list[Callable[[Files, str, str], object]] = [
    lambda files, root, target: files.close(files.create(root + target)),
    lambda files, root, target: files.link(root + "source", root + target),
    lambda files, root, target: files.rename(root + "source", root + target),
    lambda files, root, target: files.symlink("source", root + target),
    lambda files, root, target: files.mkdir(root + target),
]


@pytest.mark.parametrize("make", EXCLUSIVE)
@pytest.mark.parametrize("target", ["taken", "link"])
def test_names_that_are_taken_are_refused(root: str, make: Callable[[Files, str, str], object], target: str) -> None:
    with pytest.raises(FileExistsError):
        make(Files(), root, target)
    with open(root + "taken", "rb") as file:
        assert file.read() == b"taken"
    make(Files(), root, "free")
    assert os.path.lexists(root + "free")


def test_an_unnamed_file_gets_its_name_once(root: str) -> None:
    files = Files()
    descriptor = files.create_unnamed(root)
    files.write(descriptor, memoryview(b"content"), 0)
    names = os.listdir(root)
    with pytest.raises(FileExistsError):
        files.link_unnamed(descriptor, root + "taken")
    assert os.listdir(root) == names
    files.link_unnamed(descriptor, root + "free")
    files.close(descriptor)
    with open(root + "free", "rb") as file:
        assert file.read() == b"content"


def test_replacing_replaces(root: str) -> None:
    Files().replace(root + "source", root + "taken")
    with open(root + "taken", "rb") as file:
        assert file.read() == b"source"


def test_scanning_tells_kinds_and_follows_nothing(root: str) -> None:
    os.mkdir(root + "folder")
    os.mkfifo(root + "pipe")
    kinds = {entry.name: entry.kind for entry in Files().scan(root)}
    assert kinds == {
        "taken": "file", "source": "file", "link": "link", "folder": "folder", "pipe": "other"
    }  # fmt: skip
    assert Entry("taken", "file", 5) in Files().scan(root)


def test_what_vanishes_during_the_scan_is_left_out(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.listdir

    def vanishing(path: str) -> list[str]:
        names = real(path)
        os.unlink(root + "taken")
        return names

    monkeypatch.setattr(os, "listdir", vanishing)
    assert {entry.name for entry in Files().scan(root)} == {"source", "link"}


def test_opening_follows_no_link(root: str) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        Files().open(root + "link")


def test_reserving_takes_the_space_and_the_length(root: str) -> None:
    files = Files()
    descriptor = files.create(root + "free")
    files.reserve(descriptor, 3_000_000)
    status = files.status(descriptor)
    assert status.st_size == 3_000_000
    assert status.st_blocks * 512 >= 3_000_000
    with pytest.raises(OSError, match=r"too large|No space"):
        files.reserve(descriptor, 1 << 62)
    files.truncate(descriptor, 5)
    assert files.status(descriptor).st_size == 5
    files.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is reserved elsewhere")
def test_a_signal_that_interrupts_it_is_no_reason_not_to_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [errno.EINTR, errno.EINTR, 0]

    def fallocate(*_: object) -> int:
        number = left.pop(0)
        ctypes.set_errno(number)
        return -1 if number else 0

    monkeypatch.setattr(files_, "_libc", lambda: SimpleNamespace(fallocate=fallocate))
    Files().reserve(0, 1)
    assert left == []


def test_errors_keep_their_number(root: str) -> None:
    files = Files()
    with pytest.raises(FileNotFoundError):
        files.rename(root + "absent", root + "free")
    with pytest.raises(NotADirectoryError):
        files.sync_folder(root + "taken")
    with pytest.raises(FileNotFoundError):
        files.sync_folder(root + "absent")


def test_every_call_passes_the_watch_exactly_once(tmp_path: Path) -> None:
    class Watching(WatchedFiles):
        def __init__(self) -> None:
            super().__init__()
            self.inside = False

        def around(self, call: Call) -> Any:
            assert not self.inside, f"{call} is made by another call"
            self.inside = True
            try:
                return super().around(call)
            finally:
                self.inside = False

    async def act(store: Storage) -> None:
        await store.put("a/b", aligned([5000]))
        await store.put("a/c", aligned([2 << 20]))
        await store.get("a/b")
        await keys(store)
        await unfinished(store)
        await store.delete(["a/b", "a/c"])

    use(LocalStorage(tmp_path, files=Watching()), act)


def test_failures_come_on_cue(root: str) -> None:
    files = FailingFiles("unlink", errno.EBUSY, pattern="*/taken", nth=2, times=2)

    def unlink(name: str) -> str:
        try:
            files.unlink(root + name)
        except OSError as error:
            return name_of(error)
        return "done"

    assert [unlink("source"), unlink("taken"), unlink("taken"), unlink("link")] == ["done", "done", "EBUSY", "done"]
    assert [unlink("taken"), unlink("taken")] == ["EBUSY", "ENOENT"]
    assert files.matched == 4


def test_a_lost_reply_still_had_its_effect(root: str) -> None:
    files = FailingFiles("unlink", errno.EIO, applied=True)
    with pytest.raises(OSError, match="Input/output"):
        files.unlink(root + "taken")
    assert not os.path.exists(root + "taken")


def test_a_call_that_does_not_exist_is_no_cue() -> None:
    with pytest.raises(ValueError, match="fsync"):
        FailingFiles("fsync", errno.EIO)
