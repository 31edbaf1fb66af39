"""Damage that is remembered: what one process met, the next ones know, whoever they are and however it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncckpt
from asyncckpt import RetentionPolicy
from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.events import Damaged, TierDurable

from .conftest import Make
from .trainings import Recorder, Toy, outcome, start, steps, tree

pytestmark = pytest.mark.executors


def rot(root: Path, step: int) -> None:
    """One bit of its tensors turns over."""
    (pack,) = root.glob(f"data/*-step-{step}-*/*.safetensors")
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)


def noted(root: Path) -> list[int]:
    """The steps (which are the numbers) of what is noted as damaged."""
    return sorted(int(path.name.split("-")[0]) for path in root.glob("user/*-damaged-*.json"))


def asyncckpt_in_a_process(*arguments: object) -> dict[str, Any]:
    """What the command line says, as JSON."""
    command = [sys.executable, "-m", "asyncckpt", *map(str, arguments), "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return found


KILLED = """
import os, signal, sys
from asyncckpt import AsyncCheckpointer
from tests.checkpointer.trainings import Toy
state = AsyncCheckpointer(sys.argv[1], model=Toy(), executor=sys.argv[2]).resume()
print(state.step, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_after_its_resume_has_told_all_that_come_after_it(root: Path, executor: str) -> None:
    rot(root, 3)
    status, said, _ = outcome(start(KILLED, root, executor))
    assert (status, said) == (-9, "2\n")
    listed = asyncckpt_in_a_process("ls", root)["checkpoints"]
    assert [(found["step"], found["damaged"]) for found in listed] == [(1, False), (2, False), (3, True)]
    pruned = asyncckpt_in_a_process("prune", root, "--keep-last", 1, "--yes", "--take-over")
    assert [found["step"] for found in pruned["removed"]] == [1]
    assert [(found["step"], found["reasons"]) for found in pruned["kept"]] == [
        (2, ["last 1"]),
        (3, ["latest", "damaged"]),
    ]
    assert asyncckpt.load(root, 2).info.step == 2
    with pytest.raises(CheckpointCorruptError):
        asyncckpt.load(root, 3)


def test_a_later_training_keeps_the_damaged_one_beside_what_its_rules_keep(make: Make, root: Path) -> None:
    rot(root, 3)
    with make(root, model=Toy()) as ckpt:
        assert ckpt.resume().step == 2
    assert noted(root) == [3]
    with make(root, model=Toy(), keep=RetentionPolicy(last=2)) as ckpt:
        assert ckpt.resume(which=2).step == 2, "which meets no damage"
        ckpt.save(4).wait()
        assert steps(ckpt) == [2, 3, 4]
        assert [info.step for info in ckpt.checkpoints() if info.damaged] == [3]


@pytest.mark.parametrize("named", [True, False])
def test_a_resume_that_fails_has_noted_what_it_met(make: Make, root: Path, named: bool) -> None:
    for step in (3,) if named else (1, 2, 3):
        rot(root, step)
    with make(root, model=Toy()) as ckpt, pytest.raises(CheckpointCorruptError):
        ckpt.resume(which=3 if named else "latest")
    assert noted(root) == ([3] if named else [1, 2, 3])


def test_a_restore_writes_nothing_and_tells_what_it_met_once_the_run_is_taken(
    make: Make, root: Path, recorder: Recorder
) -> None:
    rot(root, 1)
    before = tree(root)
    ckpt = make(root, model=Toy(), keep=RetentionPolicy(last=1))
    with pytest.raises(CheckpointCorruptError):
        ckpt.restore(1)
    assert [event.step for event in recorder.of(Damaged)] == [1]
    assert tree(root) == before
    ckpt.resume()
    ckpt.save(4).wait()
    assert (steps(ckpt), noted(root)) == ([1, 4], [1])


def test_a_note_keeps_nobody_from_what_is_sound_again(make: Make, root: Path, recorder: Recorder) -> None:
    rot(root, 3)
    with make(root, model=Toy()) as ckpt:
        assert ckpt.resume().step == 2
    rot(root, 3)  # turned over twice
    toy = Toy()
    ckpt = make(root, model=toy)
    assert (ckpt.resume().step, toy.value) == (3, 3), "the bytes decide"
    assert [event.step for event in recorder.of(Damaged)] == [3]
    assert noted(root) == [3]
    ckpt.close()
    assert asyncckpt_in_a_process("verify", "--note", root)["ok"]
    assert noted(root) == []


def test_damage_at_home_that_a_mirror_mends_is_noted_at_home_and_that_of_a_copy_beside_the_copy(
    make: Make, root: Path, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    with make(root, model=Toy(), mirror=copies) as ckpt:
        ckpt.resume()
    rot(root, 3)
    with make(root, model=Toy(), mirror=copies) as ckpt:
        assert ckpt.resume().step == 3
    assert (noted(root), noted(copies)) == ([3], [])
    rot(copies, 3)
    copied = Recorder()
    with make(root, model=Toy(), mirror=copies, keep=RetentionPolicy(last=1), listeners=[copied]) as ckpt:
        assert ckpt.resume().step == 2
        ckpt.save(4).wait()
        copied.wait_for(TierDurable, 1)
        ckpt.prune()  # of home: step 2 may have been on its way to the mirror at the save
    assert (noted(root), noted(copies)) == ([3], [3])
    for where in (root, copies):
        assert [found["step"] for found in asyncckpt_in_a_process("ls", where)["checkpoints"]] == [3, 4]
