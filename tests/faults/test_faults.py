"""Disks that are full, read-only, failing or forbidden: a clear error on the handle, and training goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.errors import SaveFailed, StorageDenied, StorageError
from asyncckpt.events import Event, Failed
from asyncckpt.storage.local import LocalStorage
from asyncckpt.testing.files import FailingFiles


class Log:
    """The failures a listener is told of."""

    def __init__(self) -> None:
        self.failed: list[Failed] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, Failed):
            self.failed.append(event)


def _model(floats: int = 250_000) -> torch.nn.Module:
    return torch.nn.ParameterList([torch.nn.Parameter(torch.randn(floats))])


def _mount(arguments: list[str], where: Path) -> None:
    done = subprocess.run(["mount", *arguments, str(where)], capture_output=True, text=True, check=False)
    if done.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"cannot mount in CI: {done.stderr}")
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    _mount(["-t", "tmpfs", "-o", "size=8m", "tmpfs"], where)
    yield where
    subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
def read_only_disk(small_disk: Path) -> Path:
    """The same, read-only, with one checkpoint on it."""
    with AsyncCheckpointer(small_disk / "run", model=_model()) as checkpointer:
        checkpointer.save(1).wait()
    _mount(["-o", "remount,ro"], small_disk)
    return small_disk


def _files(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*")}


@pytest.mark.root
def test_a_full_disk_fails_the_save_and_leaves_nothing(small_disk: Path) -> None:
    log = Log()
    root = small_disk / "run"
    model = _model(1_100_000)
    with AsyncCheckpointer(root, model=model, keep=RetentionPolicy(last=2), listeners=[log]) as ckpt:
        ckpt.save(1).wait()
        for leaf in model.parameters():
            leaf.data += 1
        before = _files(root / "data")
        with pytest.raises(SaveFailed, match="no space left") as caught:
            ckpt.save(2).wait()
        assert isinstance(caught.value.__cause__, StorageDenied)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert _files(root / "data") == before
        assert [c.step for c in ckpt.checkpoints()] == [1]
        assert [(e.step, e.phase) for e in log.failed] == [(2, "write")]
    with AsyncCheckpointer(root, model=(model := _model(1_100_000))) as ckpt:
        assert ckpt.resume().step == 1
        for leaf in model.parameters():
            leaf.data = leaf.data[:1000]
        ckpt.save(3).wait()


@pytest.mark.root
def test_a_read_only_disk_can_be_read_and_says_why_it_cannot_be_written(read_only_disk: Path) -> None:
    root = read_only_disk / "run"
    model = _model()
    with AsyncCheckpointer(root, model=model, overwrite=True) as ckpt:
        assert ckpt.restore().step == 1
        with pytest.raises(SaveFailed, match=r"[Rr]ead-only"):
            ckpt.save(2).wait()
        assert [c.step for c in ckpt.checkpoints()] == [1]
    with AsyncCheckpointer(root, model=model) as ckpt, pytest.raises(StorageDenied, match=r"[Rr]ead-only"):
        ckpt.resume()


def test_a_root_that_is_a_file_is_an_error_and_never_a_fresh_start(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.write_text("not a folder")
    with AsyncCheckpointer(root, model=_model()) as ckpt:
        with pytest.raises(StorageError, match="run"):
            ckpt.resume()
        with pytest.raises(StorageError, match="run"):
            ckpt.restore()
        with pytest.raises(SaveFailed, match="run"):
            ckpt.save(1).wait()
    assert root.read_text() == "not a folder"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize(
    ("call", "pattern", "phase"),
    [
        ("mkdir", "*/run", "open"),
        ("create", "*/data/*", "write"),
        ("write", "*/data/*.safetensors", "write"),
        ("sync", "*/data/*.safetensors", "write"),
        ("replace", "*/data/*.safetensors", "write"),
        ("sync", "*manifest.json", "commit"),
        ("replace", "*manifest.json", "commit"),
    ],
)
def test_a_failing_call_fails_one_save_and_no_more(
    tmp_path: Path, number: int, call: str, pattern: str, phase: str
) -> None:
    log = Log()
    root = tmp_path / "run"
    storage = LocalStorage(root, files=FailingFiles(call, number, pattern=pattern))
    with AsyncCheckpointer(storage, model=_model(), listeners=[log]) as ckpt:
        first = ckpt.save(1)
        with pytest.raises(SaveFailed) as caught:
            first.wait()
        assert isinstance(first.error, OSError)
        assert first.error.errno == number
        assert caught.value.failures == {1: first.error}
        assert [(e.step, e.phase) for e in log.failed] == [(1, phase)]
        assert ckpt.save(2).wait().step == 2
        assert [c.step for c in ckpt.checkpoints()] == [2]
    kept = {p for p in _files(root / "data") if "/" not in p}
    assert len(kept) == 1
    assert not [p for p in _files(root) if "tmp" in p]
