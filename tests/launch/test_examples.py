"""E41: the examples of launching run as they stand, and are short."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import asyncckpt

if TYPE_CHECKING:
    from asyncckpt.testing.slurm import SlurmCluster

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, timeout=200, capture_output=True, text=True, env=dict(os.environ)
    ).stdout


@pytest.mark.parametrize("name", ["grid_search.py", "slurm_batch.py"])
def test_e41_an_example_has_fewer_than_eighty_lines(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 80


@pytest.mark.long
def test_e41_grid_search_trains_all_and_goes_on(tmp_path: Path) -> None:
    said = run("grid_search.py", "out", folder=tmp_path)
    assert re.fullmatch(r"4 of 4 trained; the best is sines_learning_rate=0\.03_hidden_size=\d+: \d\.\d{4}\n", said)
    assert len(list((tmp_path / "out").glob("*/checkpoints/run.json"))) == 4
    assert run("grid_search.py", "out", folder=tmp_path) == said
    assert (tmp_path / "out" / "grid_search-2.json").exists()


def test_e41_slurm_batch_writes_what_it_would_submit(tmp_path: Path) -> None:
    said = run("slurm_batch.py", "out", "--dry-run", folder=tmp_path)
    assert len(re.findall(r"(?m)^seeds_[0-9a-f]{12}: dry-run$", said)) == 3
    assert len(list((tmp_path / "out").glob("*/job.sh"))) == 3


@pytest.mark.long
def test_e41_slurm_batch_trains_on_a_cluster(cluster: SlurmCluster, tmp_path: Path) -> None:
    said = run("slurm_batch.py", "out", folder=tmp_path)
    assert len(re.findall(r"(?m)^seeds_[0-9a-f]{12}: COMPLETED$", said)) == 3
    for path in (tmp_path / "out").glob("seeds_*"):
        assert asyncckpt.load(path / "checkpoints").info.step == 60
        assert json.loads((path / "best.json").read_text())
