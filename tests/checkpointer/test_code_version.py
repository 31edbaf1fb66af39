"""Outside of a run it is the worker that waits for git, once: neither the training thread nor whoever saves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer, SavePolicy, revision
from asyncckpt.revision import Lookup

from .conftest import Make
from .trainings import Toy

pytestmark = pytest.mark.executors

SLOW = '#!/bin/sh\nwhile [ ! -e "{gate}" ]; do sleep 0.02; done\nexec {git} "$@"\n'


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that runs is in a repository; git answers once this file is there."""
    git, code, gate = shutil.which("git"), tmp_path / "code", tmp_path / "gate"
    assert git is not None
    code.mkdir()
    (code / "train.py").write_text("print('training')\n")
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run([git, "-C", str(code), *command], check=True, capture_output=True)
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(SLOW.format(gate=gate, git=git))
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(revision, "PATIENCE", 100.0)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(code / "train.py"), raising=False)
    return gate


def _head(gate: Path) -> str:
    asked = ["git", "-C", str(gate.parent / "code"), "rev-parse", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout[:8]


def test_neither_construction_nor_a_save_waits_for_git_and_every_checkpoint_has_its_answer(
    make: Make, gate: Path
) -> None:
    model = Toy()
    ckpt = make(model=model, save=SavePolicy(every_steps=3, every_epochs=1))
    first = ckpt.save(1)
    model.value = 2
    second = ckpt.save(2)
    assert not first.done()
    gate.touch()
    second.wait()
    first.wait()
    # Whatever it was made for: by a policy, at the end of an epoch, in an emergency.
    for made in (
        lambda: ckpt.step(3), lambda: ckpt.epoch_end(1, step=4), lambda: ckpt.save(5, emergency=True),
    ):  # fmt: skip
        model.value += 1
        handle = made()
        assert handle is not None
        handle.wait()
    assert [info.code_version for info in ckpt.checkpoints()] == [_head(gate)] * 5


def test_it_is_that_of_where_the_program_was_started(
    gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.touch()
    monkeypatch.delattr(sys.modules["__main__"], "__file__")  # as in a notebook
    monkeypatch.chdir(tmp_path / "code")
    lookup = Lookup()
    monkeypatch.chdir("/")
    assert lookup.known() == _head(gate)
    gate.unlink()
    assert lookup.known() is not None, "it was asked once"


def test_it_is_in_the_manifest_itself(gate: Path, tmp_path: Path) -> None:
    gate.touch()
    with AsyncCheckpointer(tmp_path / "run", model=Toy(), executor="thread") as ckpt:
        ckpt.save(1).wait()
    (manifest,) = (tmp_path / "run" / "data").rglob("manifest.json")
    assert json.loads(manifest.read_bytes())["code_version"] == _head(gate)
