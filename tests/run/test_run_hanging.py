"""A run on a disk that hangs: whoever opens it is told where, what is known and what to do, and nobody is held up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncckpt import Run
from asyncckpt.errors import OutcomeUnknown, StorageError, TransientError
from asyncckpt.run import log
from asyncckpt.storage import LocalStorage, bounded
from asyncckpt.testing.hanging import hanging_calls
from asyncckpt.testing.slow import PATIENCE

WAY_OUT = "hangs; mend that (umount -f, or its server), and ask again"
NOT_KNOWN = "hangs; whether that was done, or will be, is not known: mend that (umount -f, or its server), look at what"


Hang = Callable[[str, str], LocalStorage]


@pytest.fixture
def hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    """A root whose calls of some name, about paths like a pattern, hang to the end of the test."""
    with hanging_calls(monkeypatch, "asyncckpt-run") as files:
        yield lambda name, pattern: LocalStorage(tmp_path / "run", files=files(name, pattern))


@pytest.mark.parametrize(
    ("call", "pattern", "shown", "kind"),
    [
        ("open", "*/identity.json", "get identity.json", TransientError),
        ("replace", "*/identity.json", "put identity.json", OutcomeUnknown),
        ("replace", "*/config-2.json", "put config-2.json", OutcomeUnknown),
    ],
)
def test_whoever_opens_it_is_told_where_it_hangs(
    tmp_path: Path, hang: Hang, call: str, pattern: str, shown: str, kind: type[StorageError]
) -> None:
    with Run.open(tmp_path / "run", config={"lr": 1}, logs=False):
        pass
    with pytest.raises(kind) as raised:
        Run.open(hang(call, pattern), config={"lr": 2}, mode="auto", logs=False)
    said = str(raised.value)
    assert f"{tmp_path / 'run'}: {shown} has not gone on for " in said
    assert (WAY_OUT if kind is TransientError else NOT_KNOWN) in said


def test_a_run_whose_checkpoint_it_begins_from_hangs_and_nothing_was_made(
    tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = hang("open", "*/run.json")
    monkeypatch.setattr("asyncckpt.run.opening.from_url", lambda *given: other)
    with pytest.raises(TransientError, match=r"get run\.json has not gone on"):
        Run.open(tmp_path / "new", config={"checkpoint": {"resume": other.url}}, logs=False)
    assert not (tmp_path / "new").exists()


def test_a_run_begins_without_a_log_where_that_hangs(
    tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go, closed, begun, close = threading.Event(), threading.Event(), log._begun, log.LogFile.close

    def begins(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(bounded, "PATIENCE", 0.0)
        go.wait(PATIENCE)
        return begun(*given, **named)

    def closes(file: log.LogFile) -> None:
        close(file)
        closed.set()

    monkeypatch.setattr(log, "_begun", begins)
    monkeypatch.setattr(log.LogFile, "close", closes)
    root = hang("", "")
    with pytest.raises(TransientError, match=r"a log has not gone on .*nothing else is asked of it"):
        Run.open(root)
    assert "there is no log of this training" in caplog.text
    go.set()
    assert closed.wait(PATIENCE), "whoever asked for it has gone on without it"


_OPENS = """
import sys
from asyncckpt import Run
from asyncckpt.errors import TransientError
from asyncckpt.run import load_results
from asyncckpt.storage import bounded, stopped
bounded.PATIENCE = bounded.HURRY = stopped.HELD = 0.0
for ask in (lambda: Run.open(sys.argv[1], mode="auto"), lambda: load_results(sys.argv[1])):
    try:
        ask()
    except TransientError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_process_that_opens_one_on_a_mount_that_hangs_goes_on_and_ends(tmp_path: Path) -> None:
    """Whoever opens a pipe that has no writer waits for one: for ever, here."""
    for name in ("identity.json", "results.json"):
        os.mkfifo(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", _OPENS, tmp_path], capture_output=True, text=True, check=True, timeout=2 * PATIENCE
    )
    said = r"has not gone on for \d+ s: its disk, or its server,"
    for line, name in zip(done.stdout.splitlines(), ("identity.json", "results.json"), strict=True):
        assert re.fullmatch(rf"{re.escape(str(tmp_path))}: get {name} {said} {re.escape(WAY_OUT)}", line)
