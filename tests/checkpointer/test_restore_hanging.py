"""A root on a disk that hangs, without tiers: whoever reads it is told so, and it holds up nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer
from asyncckpt.checkpoints.listing import Which
from asyncckpt.errors import RestoreError, StorageError, TransientError
from asyncckpt.storage import LocalStorage, bounded, stopped
from asyncckpt.testing.files import Call
from asyncckpt.testing.hanging import HangingFiles, HangingReads
from asyncckpt.testing.slow import PATIENCE

from .test_load_hanging import WAY_OUT
from .trainings import Big


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with a checkpoint whose big reads hang, in a moment, wherever `HangingReads` are."""
    with AsyncCheckpointer(tmp_path / "run", model=(model := Big())) as ckpt:
        model.value = 2
        ckpt.save(2).wait()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    monkeypatch.setattr(bounded, "LOOK", 0.01)
    monkeypatch.setattr(stopped, "HELD", 0.0)
    return tmp_path / "run"


@pytest.mark.parametrize("call", ["resume", "restore"])
def test_what_is_being_read_when_the_disk_begins_to_hang_is_given_up_and_comes_into_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    files, found = HangingReads(monkeypatch), Big()
    ckpt = AsyncCheckpointer(LocalStorage(root, files=files), model=found, executor="thread")
    with pytest.raises(TransientError) as raised:
        ckpt.resume() if call == "resume" else ckpt.restore()
    assert str(raised.value).startswith(f"{root}: get data/")
    assert str(raised.value).endswith(WAY_OUT)
    if call == "resume":  # it was at putting it back; the other one at finding out whether it is sound
        with pytest.raises(RestoreError, match="step 2 ended halfway"):
            ckpt.save(3)
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    with AsyncCheckpointer(root.parent / "copy", model=found, executor="thread") as other:
        with pytest.raises(TransientError, match="may still write to what is restored here"):
            other.restore()
        files.go.set()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert other.restore().step == 2
            except TransientError:
                assert time.monotonic() < deadline
            else:
                break
        assert found.value == 2
    ckpt.close()


@pytest.mark.parametrize(("which", "record"), [("latest", 1), (1, 2)], ids=["its open record", "its rollback"])
def test_the_run_that_is_being_taken_when_the_disk_begins_to_hang_is_resumed_once_that_is_back(
    root: Path, monkeypatch: pytest.MonkeyPatch, which: Which, record: int
) -> None:
    with AsyncCheckpointer(root, model=(model := Big()), executor="thread") as ckpt:
        ckpt.resume()
        model.value = 1
        ckpt.save(1).wait()
        model.value = 3
        ckpt.save(3).wait()
    published = list[Call]()

    def hangs(call: Call) -> bool:
        is_record = call.name in ("link", "link_unnamed") and "/commits/" in call.paths[-1]
        published.extend([call] * is_record)
        return is_record and len(published) == record

    files, found = HangingFiles(monkeypatch, hangs), Big()
    ckpt = AsyncCheckpointer(LocalStorage(root, files=files), model=found, executor="thread")
    with pytest.raises(StorageError) as raised:
        ckpt.resume(which=which)
    assert f"{root}: put commits/" in str(raised.value)
    assert "hangs; whether that was done, or will be, is not known: mend that" in str(raised.value)
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    files.go.set()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            state = ckpt.resume(which=which)
        except TransientError:
            assert time.monotonic() < deadline
        else:
            break
    assert state is not None
    assert (state.step, found.value) == ((3, 3) if which == "latest" else (1, 1))
    found.value = 4
    ckpt.save(4).wait()
    ckpt.close()
    assert [info.step for info in AsyncCheckpointer(root, model=found, executor="thread").checkpoints()] == [2, 1, 3, 4]


_ASKS = """
import sys
import asyncckpt
from asyncckpt.errors import TransientError
from asyncckpt.storage import bounded, stopped
from click.testing import CliRunner
from asyncckpt.cli.app import app
import torch
parent, *executors = sys.argv[1:]
calls = {"diff": lambda: asyncckpt.diff(f"{parent}/thread", 1, 2)}
made = []
for executor in executors:
    ckpt = asyncckpt.AsyncCheckpointer(f"{parent}/{executor}", model=torch.nn.Linear(1, 1), executor=executor)
    made.append(ckpt)
    calls |= {f"{executor} {name}": getattr(ckpt, name) for name in ("restore", "resume", "checkpoints", "latest")}
bounded.PATIENCE = bounded.HURRY = stopped.HELD = 0.0
for name, call in calls.items():
    try:
        call()
    except TransientError as error:
        print(name, "hangs; mend that (umount -f, or its server), or load another copy" in str(error))
for command in ("ls", "show", "verify", "resume-path", "diff"):
    root = f"{parent}/thread"
    done = CliRunner().invoke(app, [command, *([f"{root}@1", f"{root}@2"] if command == "diff" else [root])])
    print(command, done.exit_code, "hangs; mend that" in done.output)
for ckpt in made:
    ckpt.close(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_process_that_reads_a_root_that_hangs_is_told_by_every_call_and_ends(tmp_path: Path) -> None:
    """Whoever opens a pipe that has no writer waits for one: for ever, here."""
    executors = ["thread", *(["process"] if sys.platform == "linux" else [])]
    for executor in executors:
        (tmp_path / executor).mkdir()
        os.mkfifo(tmp_path / executor / "run.json")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ASKS, tmp_path, *executors],
        env=os.environ | {"ASYNCCKPT_RUNTIME_DIR": str(tmp_path / "runtime")},
        capture_output=True, text=True, check=False, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = [f"{executor} {name}" for executor in executors for name in ("restore", "resume", "checkpoints", "latest")]
    commands = [f"{name} 4 True" for name in ("ls", "show", "verify", "resume-path", "diff")]
    assert done.stdout.splitlines() == [*(f"{call} True" for call in ("diff", *calls)), *commands]
