"""A plain load from a disk that hangs: it raises, names the disk and the way out, and holds up nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer, load
from asyncckpt.errors import TransientError
from asyncckpt.storage import LocalStorage, bounded, stopped
from asyncckpt.testing.hanging import HangingReads
from asyncckpt.testing.slow import PATIENCE

from .trainings import Big

WAY_OUT = (
    "hangs; mend that (umount -f, or its server), or load another copy: a mirror, or the root that a local tier is of"
)


def test_what_is_being_read_when_the_disk_begins_to_hang_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    monkeypatch.setattr(bounded, "LOOK", 0.01)
    monkeypatch.setattr(stopped, "HELD", 0.0)
    root = tmp_path / "run"
    with AsyncCheckpointer(root, model=Big()) as ckpt:
        ckpt.save(1).wait()
    files, before = HangingReads(monkeypatch), set(threading.enumerate())
    with pytest.raises(TransientError) as raised:
        load(LocalStorage(root, files=files))
    assert str(raised.value).startswith(f"the store cannot be read: {root}: get data/")
    assert str(raised.value).endswith(WAY_OUT)
    files.go.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name == "asyncckpt-load":
            thread.join(PATIENCE)
            assert not thread.is_alive()
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    assert load(root).info.step == 1


_LOADS = """
import sys
import asyncckpt
from asyncckpt.errors import TransientError
from asyncckpt.storage import bounded
from asyncckpt.storage import stopped
bounded.PATIENCE = bounded.HURRY = stopped.HELD = 0.0
try:
    asyncckpt.load(sys.argv[1])
except TransientError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_process_that_loads_from_a_mount_that_hangs_goes_on_and_ends(tmp_path: Path) -> None:
    """Whoever opens a pipe that has no writer waits for one: for ever, here."""
    os.mkfifo(tmp_path / "run.json")
    done = subprocess.run(
        [sys.executable, "-c", _LOADS, tmp_path], capture_output=True, text=True, check=True, timeout=2 * PATIENCE
    )
    assert done.stdout == f"{tmp_path}: get run.json has not gone on for 0 s: its disk, or its server, {WAY_OUT}\n"
