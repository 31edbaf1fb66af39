"""A log on a disk that is on a server, and may hang: nothing is lost, and no training waits for it."""

from __future__ import annotations

import errno
import gzip
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from asyncckpt import Run
from asyncckpt.run import log_aside, log_file
from asyncckpt.run.log_aside import LogAside
from asyncckpt.run.log_aside import _Text as Text
from asyncckpt.storage import bounded, mounts
from asyncckpt.testing.slow import PATIENCE

from .conftest import Train

ON_A_SERVER = """
from asyncckpt.run import log_aside
from asyncckpt.storage import mounts
mounts.TABLE, log_aside.MOMENT = "mountinfo", 3600.0
"""
"""What a training begins with, so that its folder is on NFS, see `of_a_server`, and it waits for that for ever."""


def of_a_server(folder: Path) -> Path:
    """A table of mounts by which the folder is on NFS."""
    path = folder / "mountinfo"
    path.write_text(f"36 35 98:0 / {folder} rw,noatime - nfs4 server:/export rw\n")
    return path


class Disk:
    """Takes nothing from `hang` on, before `go_on`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._go = threading.Event()
        self._go.set()
        self._changed = threading.Condition()
        self._asked = b""
        self._write = os.write
        patch.setattr(log_file.os, "write", self.write)

    def write(self, descriptor: int, data: Any) -> int:
        with self._changed:
            self._asked += data
            self._changed.notify_all()
        self._go.wait(2 * PATIENCE)
        return self._write(descriptor, data)

    def wait_asked(self, data: bytes) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: data in self._asked, PATIENCE)

    def hang(self) -> None:
        self._go.clear()

    def go_on(self) -> None:
        self._go.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.go_on()


def wait_for_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log_aside, "MOMENT", 0.0)


def wait_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log_aside, "MOMENT", 3600.0)


def test_a_disk_that_hangs_holds_up_nobody_and_gets_all_of_it_later(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wait_for_ever(monkeypatch)
    file = LogAside(tmp_path / "x.log", 1 << 30)
    file.write("before\n")
    assert (tmp_path / "x.log").read_text() == "before\n"
    disk.hang()
    wait_for_nothing(monkeypatch)
    file.write("line 0\n")
    wait_for_ever(monkeypatch)  # from now on nobody waits
    for number in range(1, 100):
        file.write(f"line {number}\n")
    assert (tmp_path / "x.log").read_text() == "before\n"
    disk.go_on()
    file.close()
    assert (tmp_path / "x.log").read_text() == "before\n" + "".join(f"line {number}\n" for number in range(100))
    (told,) = (record.message for record in caplog.records)
    assert "x.log cannot be written: its disk, or its server, has not gone on for 0 s; training goes on" in told
    assert not any(os.path.realpath(path) == str(tmp_path / "x.log") for path in Path("/proc/self/fd").iterdir())
    file.close()
    file.write("after the end\n")
    assert "after the end" not in (tmp_path / "x.log").read_text()


def test_a_training_that_prints_on_a_server_goes_on(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "TABLE", str(of_a_server(tmp_path)))
    with Run.open(tmp_path / "run") as run:
        assert run.log_path is not None
        wait_for_nothing(monkeypatch)
        disk.hang()
        print("held")
        assert "held" not in run.log_path.read_text()
        disk.go_on()
    assert run.log_path.read_text().count("held") == 1


class Late:
    """A lock that comes free just after whoever waited has given up."""

    def acquire(self, timeout: float) -> bool:
        return False

    def locked(self) -> bool:
        return False


def test_it_is_waited_for_again_once_it_goes_on(tmp_path: Path) -> None:
    file = LogAside(tmp_path / "x.log", 1 << 30)
    file._await(Text("", 0, cast(threading.Lock, Late())))
    assert not file._hangs
    file._hangs = True
    (writing := threading.Lock()).acquire()
    file._write_one(Text("line\n", 0, writing))
    assert not file._hangs
    file.close()


def test_what_is_too_much_to_keep_is_missing_and_the_log_says_so(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_aside, "MOST", 2)
    wait_for_nothing(monkeypatch)
    file = LogAside(tmp_path / "x.log", 1 << 30)
    disk.hang()
    file.write("é 0\n")
    disk.wait_asked(b"0\n")
    for number in range(1, 10):
        file.write(f"é {number}\n")
    disk.go_on()
    disk.wait_asked(b"2\n")
    file.write("after\n")
    file.close()
    note = "[35 bytes of output or more are missing here: the disk hung, and it was too much to keep]"
    assert (tmp_path / "x.log").read_text() == f"é 0\né 1\né 2\n{note}\nafter\n"


def test_what_a_full_disk_has_to_say_is_no_reason_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread says so itself, and what it says comes back to the log."""
    wait_for_ever(monkeypatch)
    monkeypatch.setattr(mounts, "TABLE", str(of_a_server(tmp_path)))
    run = Run.open(tmp_path / "run")

    def full(descriptor: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(log_file.os, "write", full)
        print("not there")
    print("there")
    run.close()
    assert run.log_path is not None
    said = run.log_path.read_text()
    assert "not there" not in said
    assert said.endswith("bytes of output or more are missing here: No space left on device]\nthere\n")
    assert caplog.text.count("cannot be written (No space left on device)") == 1


def test_a_log_that_hangs_at_the_end_is_left_behind(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wait_for_nothing(monkeypatch)
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    monkeypatch.setattr(bounded, "HURRY", 0.0)
    file = LogAside(tmp_path / "x.log", 1 << 30)
    disk.hang()
    file.write("late\n")
    file.close()
    assert "hangs; what was printed last may be missing there" in caplog.text
    disk.go_on()
    file._thread.join(PATIENCE)
    assert (tmp_path / "x.log").read_text() == "late\n"


def test_a_child_that_is_forked_is_not_held_up_either(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LogAside(tmp_path / "x.log", 1 << 30)
    child = os.fork()
    if child == 0:
        file.write("of the child\n")
        disk.hang()
        wait_for_nothing(monkeypatch)
        file.write("never there\n")
        file.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    file.write("of this process\n")
    file.close()
    assert (tmp_path / "x.log").read_text() == "of the child\nof this process\n"


def test_a_run_on_a_server_loses_no_line_by_a_crash(train: Train, tmp_path: Path) -> None:
    of_a_server(tmp_path)
    train(ON_A_SERVER + "Run.open('run')\nprint('the last line', end='')\nos.kill(os.getpid(), 9)", check=False)
    (path,) = (tmp_path / "run/logs").iterdir()
    assert path.read_text().endswith("the last line")


def test_a_run_on_a_server_that_ends_by_an_error_says_so_in_its_log(train: Train, tmp_path: Path) -> None:
    of_a_server(tmp_path)
    train(ON_A_SERVER + "Run.open('run')\nraise ZeroDivisionError('the end')", check=False)
    (path,) = (tmp_path / "run/logs").iterdir()
    assert path.read_text().count("ZeroDivisionError: the end\n") == 1


def test_a_signal_handler_that_prints_does_not_hang_and_a_log_goes_on_in_a_new_file(
    train: Train, tmp_path: Path
) -> None:
    of_a_server(tmp_path)
    train(
        ON_A_SERVER + "import signal\n"
        "def alarm(*_):\n"
        "    sys.stderr.write('alarm\\n')\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.001)\n"  # not before: a stream that writes takes nothing
        "signal.signal(signal.SIGALRM, alarm)\n"
        "with Run.open('run', log_bytes=20000):\n"
        "    alarm()\n"
        "    for number in range(3000):\n        sys.stdout.write(f'line {number}\\n')\n"
        "    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
    )
    texts = [
        gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        for path in (tmp_path / "run/logs").iterdir()
    ]
    lines = "".join(texts).splitlines()
    assert len(texts) > 1
    assert lines.count("alarm") > 1
    assert [f"line {number}" for number in range(3000)] == sorted(
        (line for line in lines if line.startswith("line ")), key=lambda line: int(line.split()[1])
    )
