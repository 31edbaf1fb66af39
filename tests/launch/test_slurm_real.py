"""E29 to E33 on a real Slurm: submission, states, names, concurrency, and a training that comes back."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import asyncckpt
from asyncckpt.launch import ExecutionMode, JobStatus, ModelTrainingFramework, NamingStrategy, ParameterGrid
from asyncckpt.launch.config import ExperimentConfig, experiment
from asyncckpt.launch.slurm import SLURMLauncher

if TYPE_CHECKING:
    from asyncckpt.testing.slurm import SlurmCluster

TRAINING = Path(__file__).with_name("training.py")
PATIENCE = 150.0

NOTICE = 90
"""Seconds before its limit that a training asks to be told: it then is where its limit is as near as it can be set."""
FAR = 600
"""Minutes after which no test runs."""
TOLD = re.compile(r"SIGUSR1: this process will be killed in \d+\.\d s")

_ENDED = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.TIMEOUT, JobStatus.NODE_FAIL)


def wait(condition: Callable[[], object], what: str, why: Callable[[], str] = str) -> None:
    """Wait for something that a cluster does; `why` says what there is to be known where it does not."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not come about\n{why()}"
        time.sleep(0.2)


def launcher(tmp_path: Path, commands: str) -> SLURMLauncher:
    (tmp_path / "job.template").write_text(f"#!/bin/bash\n#SBATCH --comment={{{{job_name}}}}\n\n{commands}\n")
    return SLURMLauncher(tmp_path / "job.template", tmp_path / "out", project_root=tmp_path)


def ended(launcher: SLURMLauncher, job: str) -> JobStatus:
    wait(lambda: launcher.get_job_status(job) in _ENDED, f"the end of job {job}")
    return launcher.get_job_status(job)


@pytest.fixture
def config(least: dict[str, Any]) -> ExperimentConfig:
    return experiment(least)


def test_e29_no_job_name_breaks_a_script(cluster: SlurmCluster, tmp_path: Path, least: dict[str, Any]) -> None:
    names = ["'; touch pwned; '", '$(touch pwned) "x" `touch pwned`', "a\nb", "nuß %j \\"]
    configs = [experiment({**least, "experiment_name": f"e{number}", "slurm": {}}) for number in range(len(names))]
    for config, name in zip(configs, names, strict=True):
        assert config.slurm is not None
        config.slurm.job_name = name
    commands = "printf '%s' {{job_name}} \"{{job_name}}\" > {{output_dir}}/said # {{config_path}}\n"
    made = launcher(tmp_path, commands + 'bash -c \'printf "%s" "$ASYNCCKPT_JOB_NAME"\' >> "{{output_dir}}/said"')
    jobs = made.submit_experiment_batch(configs).successful
    assert [ended(made, job) for job in jobs.values()] == [JobStatus.COMPLETED] * len(names)
    assert [(tmp_path / "out" / name / "said").read_text() for name in jobs] == [name * 3 for name in names]
    assert not list(tmp_path.rglob("pwned"))


def test_e2_e29_a_search_that_is_submitted_twice_runs_once(
    cluster: SlurmCluster, tmp_path: Path, least: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "job.template").write_text("#!/bin/bash\ntest -e {{config_path}} && echo >> {{output_dir}}/ran\n")
    framework = ModelTrainingFramework(tmp_path, slurm_template_path="job.template")
    grid = ParameterGrid("seeds")
    grid.add_parameter("seed", [5, 6])

    def search(**more: Any) -> list[str]:
        found = framework.run_grid_search([grid], least, naming=NamingStrategy.SEQUENTIAL, **more)
        assert found.submitted == 2
        return list(found.job_ids.values())

    jobs = search()
    assert search() == jobs
    made = framework.get_slurm_launcher()
    assert [ended(made, job) for job in jobs] == [JobStatus.COMPLETED] * 2
    assert search() == jobs
    assert f"is job {jobs[0]} already, which is COMPLETED" in caplog.text
    others = search(resubmit=True)
    assert not {*others} & {*jobs}
    assert [ended(made, job) for job in others] == [JobStatus.COMPLETED] * 2
    assert [path.read_text() for path in tmp_path.rglob("ran")] == ["\n\n"] * 2


def test_e31_states_are_those_that_slurm_says(cluster: SlurmCluster, tmp_path: Path, least: dict[str, Any]) -> None:
    made = launcher(
        tmp_path, 'test -e {{config_path}} && case "{{experiment_name}}" in bad) exit 3;; long) sleep 600;; esac'
    )

    def submitted(name: str, *more: str) -> str:
        return made.submit_experiment(
            experiment({**least, "experiment_name": name, "slurm": {"additional_args": list(more)}})
        )

    good, bad, running, waiting = submitted("good"), submitted("bad"), submitted("long"), submitted("held", "--hold")
    assert ended(made, good) is JobStatus.COMPLETED
    assert ended(made, bad) is JobStatus.FAILED
    wait(lambda: made.get_job_status(running) is JobStatus.RUNNING, "a job that runs")
    assert made.get_job_status(waiting) is JobStatus.PENDING
    assert made.get_job_status("999999") is JobStatus.UNKNOWN
    assert made.cancel_job(running)
    assert made.cancel_job(waiting)
    assert not made.cancel_job("999999")
    assert [ended(made, job) for job in (running, waiting)] == [JobStatus.CANCELLED] * 2


def test_e30_on_a_cluster_one_waits_for_the_other(cluster: SlurmCluster, tmp_path: Path, least: dict[str, Any]) -> None:
    made = launcher(
        tmp_path, "test -e {{config_path}} && mkdir running && echo {{experiment_name}} >> order && rmdir running"
    )
    experiments = [experiment({**least, "experiment_name": f"e{number}"}) for number in range(4)]
    found = made.submit_experiment_batch(experiments, max_concurrent_jobs=1)
    assert [ended(made, job) for job in found.successful.values()] == [JobStatus.COMPLETED] * 4
    assert (tmp_path / "order").read_text().split() == ["e0", "e1", "e2", "e3"]


def test_e2_a_search_becomes_jobs(cluster: SlurmCluster, tmp_path: Path, least: dict[str, Any]) -> None:
    (tmp_path / "job.template").write_text("#!/bin/bash\ngrep seed {{config_path}} > {{output_dir}}/said\n")
    framework = ModelTrainingFramework(tmp_path, slurm_template_path="job.template")
    grid = ParameterGrid("seeds")
    grid.add_parameter("seed", [5, 6])
    found = framework.run_grid_search([grid], least, output_dir=tmp_path / "out", naming=NamingStrategy.SEQUENTIAL)
    assert (found.mode, found.total, found.submitted) == (ExecutionMode.SLURM, 2, 2)
    made = framework.get_slurm_launcher("out")
    assert [ended(made, job) for job in found.job_ids.values()] == [JobStatus.COMPLETED] * 2
    assert [(tmp_path / "out" / name / "said").read_text() for name in found.job_ids] == ["seed: 5\n", "seed: 6\n"]


class Limited:
    """A job that Slurm itself tells of its time limit, once the test has drawn that near."""

    def __init__(self, cluster: SlurmCluster, launcher: SLURMLauncher, job: str, folder: Path) -> None:
        self._cluster, self._launcher, self._job, self._folder = cluster, launcher, job, folder

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that this job does; it must not have ended."""

        def holds() -> object:
            if found := condition():
                return found
            state = self._launcher.get_job_status(self._job)
            assert state not in _ENDED, f"{what} has not come about: {state}\n{self._cluster.told(self._job)}"
            return None

        wait(holds, what, lambda: self._cluster.told(self._job))

    def is_told(self, times: int) -> bool:
        """Whether the training has said so often that it was."""
        path = self._folder / f"slurm-{self._job}.out"
        return path.exists() and len(TOLD.findall(path.read_text())) >= times

    def tell(self, times: int) -> None:
        """Have it told. Slurm looks every half minute who has so long left, or half a minute more."""
        hours, minutes, seconds = map(int, self._cluster.shown(self._job)["RunTime"].split(":"))
        ran = 3600 * hours + 60 * minutes + seconds
        self._cluster.limit(self._job, math.ceil((ran + NOTICE / 2) / 60))
        self.until(lambda: self.is_told(times), f"notice number {times}")

    def come_back(self, start: int) -> None:
        """Have it start again, when it is not told until it is ready for that."""

        def is_relieved() -> bool:
            with suppress(subprocess.CalledProcessError):  # it is being put back
                self._cluster.limit(self._job, FAR)
                return True
            return False

        def has_started() -> bool:
            self._cluster.hurry(self._job)
            return self.has_started(start)

        self.until(is_relieved, f"a longer time limit for start number {start}")
        self.until(has_started, f"start number {start}")

    def has_started(self, start: int) -> bool:
        """Whether it has made a step since it was started for the time `start`: from then on it can be told."""
        return (self._folder / f"attempt{start}").exists()


@pytest.mark.long
def test_e33_a_training_told_before_its_time_limit_comes_back_twice_to_the_same_loss(
    cluster: SlurmCluster, tmp_path: Path, least: dict[str, Any]
) -> None:
    epochs, paced = 80, 2
    least["seed"] = 7
    least["slurm"] = {"time_limit": str(FAR), "cpus_per_task": 1, "job_name": "a training, twice put back"}
    least["preemption"] = {"grace_period_seconds": NOTICE, "max_preemptions": 3}
    config = experiment(least)
    made = launcher(tmp_path, f"exec {sys.executable} {TRAINING} {{{{config_path}}}} {epochs} {paced}")
    folder = tmp_path / "out" / "tiny"
    job = made.submit_experiment(config)
    twin = tmp_path / "twin"
    twin.mkdir()
    (twin / "config.yaml").write_text((folder / "config.yaml").read_text())
    limited = Limited(cluster, made, job, folder)
    limited.until(lambda: limited.has_started(0), "the start")
    limited.tell(1)
    limited.come_back(1)
    undisturbed = [sys.executable, str(TRAINING), str(twin / "config.yaml"), str(epochs), "0"]
    with subprocess.Popen(undisturbed) as straight:  # while the cluster is waited for
        limited.tell(2)
        limited.come_back(2)
        assert straight.wait(PATIENCE) == 0
    assert ended(made, job) is JobStatus.COMPLETED, cluster.told(job)
    starts = [tuple(map(int, line.split())) for line in (folder / "starts").read_text().splitlines()]
    assert [number for number, _ in starts] == [0, 1, 2]
    assert 0 == starts[0][1] < starts[1][1] < starts[2][1] < 25 * epochs
    said = (folder / f"slurm-{job}.out").read_text()
    assert len(TOLD.findall(said)) == said.count("DUE TO JOB REQUEUE") == 2
    assert "TIME LIMIT" not in said
    assert asyncckpt.load(folder / "checkpoints").info.step == 25 * epochs
    assert (folder / "loss").read_text() == (twin / "loss").read_text()
