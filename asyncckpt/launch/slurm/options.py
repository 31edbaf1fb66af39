"""Options of sbatch: what the configuration of an experiment asks for; they count more than those in the script."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from asyncckpt.errors import ConfigurationError
from asyncckpt.launch.config import ExperimentConfig
from asyncckpt.launch.slurm.template import Template

_OPTIONS = {
    "time_limit": "--time",
    "nodes": "--nodes",
    "ntasks_per_node": "--ntasks-per-node",
    "cpus_per_task": "--cpus-per-task",
    "mem": "--mem",
    "gres": "--gres",
    "partition": "--partition",
}
_SIGNAL = r"--sig\w*"
_DEPENDENCY = r"--dep\w*|-d"
"""Sbatch takes the beginning of an option for the option."""


def options(config: ExperimentConfig, template: Template, folder: Path, project: Path) -> list[str]:
    """All options of a job but those that it waits by."""
    section = dataclasses.asdict(config.slurm) if config.slurm else {}
    preemption = config.preemption
    # Slurm reads %j in the path of the output; in a folder's name it must not read anything.
    output = str(folder).replace("%", "%%")
    found = [
        "--parsable",
        f"--job-name={job_name(config)}",
        f"--chdir={project}",
        f"--output={output}/slurm-%j.out",
        "--open-mode=append",
        "--requeue" if preemption.requeue else "--no-requeue",
        *(f"{option}={section[name]}" for name, option in _OPTIONS.items() if section.get(name) is not None),
    ]
    if template.option(_SIGNAL) is None:
        # Without B: it goes to the steps, those of srun; a script that runs a program itself has none.
        whom = "" if template.runs("srun") else "B:"
        seconds = math.ceil(preemption.grace_period_seconds)
        found.append(f"--signal={whom}{preemption.signal.removeprefix('SIG')}@{seconds}")
    return [*found, *section.get("additional_args", [])]


def waiting(config: ExperimentConfig, template: Template, job: str) -> str:
    """The option by which a job waits for `job`, and for what it waits for already.

    Raises `ConfigurationError` where it already waits for one of several: Slurm cannot say both.
    """
    own = _own(config.slurm.additional_args if config.slurm else (), template)
    if "?" in own:
        raise ConfigurationError(
            f"{config.experiment_name} waits for one of several ({own}), and max_concurrent_jobs makes it wait for job "
            f"{job} too: Slurm has no word for both"
        )
    return f"--dependency={own}{',' if own else ''}afterany:{job.partition(';')[0]}"


def _own(given: Sequence[str], template: Template) -> str:
    found: Iterable[re.Match[str] | None] = (re.fullmatch(rf"(?:{_DEPENDENCY})[=\s]*(\S+)\s*", each) for each in given)
    last = [match[1] for match in found if match is not None]
    return (last[-1] if last else template.option(_DEPENDENCY) or "").strip("\"'")


def job_name(config: ExperimentConfig) -> str:
    """What the job is called."""
    return (config.slurm.job_name if config.slurm else None) or config.experiment_name
