"""E41: the examples of trainers run as they stand, go on where they were, and are short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import asyncckpt

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), "out"]
    return subprocess.run(command, cwd=folder, check=True, timeout=200, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ["basic_training.py", "custom_trainer.py", "preemption_handling.py"])
def test_e41_an_example_has_fewer_than_eighty_lines(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 80


def test_e41_basic_training_trains_and_what_is_over_stays_as_it_is(tmp_path: Path) -> None:
    said = run("basic_training.py", tmp_path)
    assert re.fullmatch(r"5 epochs, 40 steps: val_loss 0\.\d{4}\n", said)
    assert asyncckpt.load(tmp_path / "out").info.epoch == 5
    assert run("basic_training.py", tmp_path) == said


def test_e41_custom_trainer_learns_and_saves_what_it_has_added(tmp_path: Path) -> None:
    said = run("custom_trainer.py", tmp_path)
    assert float(said.rpartition(" ")[2]) > 0.6
    assert "teacher" in asyncckpt.load(tmp_path / "out").state["extra"]


def test_e41_preemption_handling_comes_to_the_same_weights(tmp_path: Path) -> None:
    said = run("preemption_handling.py", tmp_path)
    assert said.splitlines() == [
        "alone: exit status 0",
        "disturbed: exit status 143",
        "disturbed: exit status 143",
        "disturbed: exit status 0",
        "the same weights, to the last bit",
    ]
