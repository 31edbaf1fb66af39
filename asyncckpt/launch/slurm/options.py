"""Options of sbatch: what the configuration of an experiment asks for; they count more than those in the script."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from asyncckpt.errors import ConfigurationError
from asyncckpt.launch.config import ExperimentConfig, rules
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
_TIME = r"--time(?!-)|-t"

EARLY = 60
"""Seconds by which Slurm may give notice earlier than it was told to, as ``man sbatch`` says of ``--signal``."""


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
        found.append(f"--signal={whom}{preemption.signal.removeprefix('SIG')}@{_grace(config)}")
    return [*found, *section.get("additional_args", [])]


def check_time(config: ExperimentConfig, template: Template) -> None:
    """Raises `ConfigurationError` for a job that would be told to stop as soon as it starts, and be put back for ever.

    Where script or arguments say themselves when it is told, that is theirs.
    """
    given = config.slurm.additional_args if config.slurm else ()
    said = _last(_TIME, given) or (config.slurm and config.slurm.time_limit) or template.option(_TIME)
    if not said or template.option(_SIGNAL) is not None or _last(_SIGNAL, given) is not None:
        return
    seconds, grace = rules.seconds_of(said.strip("\"'")), _grace(config)
    if seconds is not None and seconds <= grace + EARLY:
        raise ConfigurationError(
            f"{config.experiment_name} has a time limit of {said} ({seconds} s), and is told to stop "
            f"preemption.grace_period_seconds={config.preemption.grace_period_seconds:g} before it, which Slurm may do "
            f"{EARLY} s earlier: no time is left to train. Use a slurm.time_limit of more than {grace + EARLY} s, or a "
            "shorter grace"
        )


def _grace(config: ExperimentConfig) -> int:
    return math.ceil(config.preemption.grace_period_seconds)


def waiting(config: ExperimentConfig, template: Template, job: str) -> str:
    """The option by which a job waits for `job`, and for what it waits for already.

    Raises `ConfigurationError` where it already waits for one of several: Slurm cannot say both.
    """
    given = config.slurm.additional_args if config.slurm else ()
    own = (_last(_DEPENDENCY, given) or template.option(_DEPENDENCY) or "").strip("\"'")
    if "?" in own:
        raise ConfigurationError(
            f"{config.experiment_name} waits for one of several ({own}), and max_concurrent_jobs makes it wait for job "
            f"{job} too: Slurm has no word for both"
        )
    return f"--dependency={own}{',' if own else ''}afterany:{job.partition(';')[0]}"


def _last(pattern: str, given: Sequence[str]) -> str | None:
    """The value of an option that is in `given` last, by a pattern for what it is called."""
    found: Iterable[re.Match[str] | None] = (re.fullmatch(rf"(?:{pattern})[=\s]*(\S+)\s*", each) for each in given)
    return next((match[1] for match in reversed(list(found)) if match is not None), None)


def job_name(config: ExperimentConfig) -> str:
    """What the job is called."""
    return (config.slurm.job_name if config.slurm else None) or config.experiment_name
