"""Whether a folder is seen by other machines, as the table of mounts says it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from asyncckpt.storage import mounts


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "TABLE", str(path))
    return path


def line(point: object, kind: str, *optional: str) -> str:
    return " ".join(["36 35 98:0", "/", str(point), "rw,noatime", *optional, "-", kind, "server:/export", "rw\n"])


@pytest.mark.parametrize("kind", sorted(mounts.NETWORK))
def test_what_lies_on_a_network_file_system_is_shared(table: Path, tmp_path: Path, kind: str) -> None:
    table.write_text(line("/", "ext4", "shared:1") + line(tmp_path, kind, "shared:7", "master:2"))
    assert mounts.network(str(tmp_path / "not" / "there" / "yet")) == kind
    assert mounts.network(str(tmp_path)) == kind
    assert mounts.network(str(tmp_path.parent)) is None
    assert mounts.network(f"{tmp_path}-beside") is None


def test_a_disk_that_is_mounted_within_or_over_it_is_not(table: Path, tmp_path: Path) -> None:
    table.write_text(line(tmp_path, "nfs4") + line(tmp_path / "scratch", "xfs"))
    assert mounts.network(str(tmp_path / "scratch" / "run")) is None
    assert mounts.network(str(tmp_path / "home" / "run")) == "nfs4"
    table.write_text(line(tmp_path, "nfs4") + line(tmp_path, "xfs"))
    assert mounts.network(str(tmp_path / "run")) is None


def test_links_are_followed_and_names_may_have_blanks(table: Path, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    table.write_text(line("/", "ext4") + line(str(tmp_path / "a b").replace(" ", r"\040"), "lustre"))
    assert mounts.network(str(tmp_path / "link" / "run")) == "lustre"


def test_a_mount_that_hangs_is_looked_up_by_the_name_that_was_given(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr(mounts, "LOOK", 0.0)
    monkeypatch.setattr(os.path, "realpath", lambda path: go.wait() and path)
    table.write_text(line("/", "ext4") + line(tmp_path, "nfs4"))
    try:
        assert mounts.network(f"{tmp_path}/a/../run") == "nfs4"
    finally:
        go.set()


def test_where_nobody_says_it_is_this_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "TABLE", str(tmp_path / "nothing"))
    assert mounts.network("/") is None
