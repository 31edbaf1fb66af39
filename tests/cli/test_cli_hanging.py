"""A root on a disk that hangs: every command says so, and what is not known of what it was doing; and it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncckpt.storage import bounded, local
from asyncckpt.testing.hanging import HangingFiles, await_threads, hanging_calls
from asyncckpt.testing.slow import PATIENCE

from .conftest import Document, Run, Saved, tree

THREAD = "asyncckpt-command"

NOT_KNOWN = "hangs; whether that was done, or will be, is not known: mend that (umount -f, or its server), look at what"

_ASKS = """
import sys
from click.testing import CliRunner
from asyncckpt.cli.app import app
from asyncckpt.storage import bounded, stopped
bounded.PATIENCE = bounded.HURRY = stopped.HELD = 0.0
root, elsewhere = sys.argv[1:]
for command in (
    ["watch", root],
    ["export", root, elsewhere, "--to", "safetensors"],
    ["export", root, elsewhere, "--to", "torch"],
    ["cp", root, elsewhere],
    ["sync", root, elsewhere],
    ["sync", elsewhere, root],
    ["prune", root, "--keep-last", "1", "--yes"],
    ["gc", root, "--yes"],
    ["tag", root, "paper"],
    ["pin", root],
    ["unpin", root],
    ["report", root],
    ["compare", root],
    ["serve", root, "--port", "0"],
    ["import", "pyproject.toml", root],
    ["bench", root],
    ["ls", f"{root}@latest"],
):
    done = CliRunner().invoke(app, command)
    is_said = f"{root}: " in done.output or f"{elsewhere}: " in done.output or f"{root}@latest: " in done.output
    print(*command[:1], done.exit_code, is_said and "hangs; mend that (umount -f, or its server), " in done.output)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_every_command_is_told_of_a_mount_that_hangs_and_the_process_ends(tmp_path: Path) -> None:
    """Whoever opens a pipe that has no writer waits for one: for ever, here."""
    (tmp_path / "run").mkdir()
    for name in ("run.json", "identity.json"):
        os.mkfifo(tmp_path / "run" / name)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ASKS, tmp_path / "run", tmp_path / "other"],
        capture_output=True, text=True, check=False, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{command} 4 True"
        for command in (
            *("watch", "export", "export", "cp", "sync", "sync", "prune", "gc", "tag", "pin", "unpin"),
            *("report", "compare", "serve", "import", "bench", "ls"),
        )
    ]


Hang = Callable[[str, str], HangingFiles]


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    """Has calls of some name, about paths like a pattern, hang on every disk, until their `go`."""
    with hanging_calls(monkeypatch, THREAD) as made:

        def hanging(name: str, pattern: str) -> HangingFiles:
            files = made(name, pattern)
            monkeypatch.setattr(local, "Files", lambda: files)
            return files

        yield hanging


def test_of_a_tag_that_was_being_written_nobody_knows_and_it_may_be_there_once_the_disk_is_back(
    run: Run, document: Document, saved: Saved, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    files = hang("replace", "*/user/*")
    done = run("tag", f"{saved}@20", "paper")
    assert done.exit_code == 4
    assert f"{saved}: put user/" in done.stderr
    assert NOT_KNOWN in done.stderr
    files.go.set()
    await_threads(before, THREAD)
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    assert [row["tags"] for row in document("ls", saved)["checkpoints"]] == [[], ["paper"], []]


@pytest.mark.parametrize(
    ("call", "pattern", "status", "shown", "listed"),
    [
        ("link*", "*/commits/*", 4, "put commits/", 3),  # the record that would take the run
        ("unlink", "*/data/*", 0, "delete data/", 2),  # of what is not listed any more
    ],
)
def test_what_a_prune_was_at_is_said(
    run: Run,
    document: Document,
    saved: Saved,
    hang: Hang,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    pattern: str,
    status: int,
    shown: str,
    listed: int,
) -> None:
    hang(call, pattern)
    done = run("prune", saved, "--keep-last", "1", "--yes")
    assert done.exit_code == status, done.output
    assert f"{saved}: {shown}" in done.stderr
    assert NOT_KNOWN in done.stderr
    monkeypatch.undo()
    assert len(document("ls", saved)["checkpoints"]) == listed


def test_a_copy_to_a_disk_that_hangs_is_listed_there_once_it_is_asked_for_again(
    run: Run, document: Document, saved: Saved, tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, there = tree(saved.root), set(threading.enumerate())
    files = hang("write", "*/other/data/*")
    done = run("sync", saved, tmp_path / "other")
    assert done.exit_code == 4
    assert f"{tmp_path / 'other'}: put data/00000001-" in done.stderr
    assert NOT_KNOWN in done.stderr
    assert tree(saved.root) == before
    files.go.set()
    await_threads(there, THREAD)
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    assert run("sync", saved, tmp_path / "other").exit_code == 0
    assert document("ls", tmp_path / "other")["checkpoints"] == document("ls", saved)["checkpoints"]
