"""Execution: where experiments run, and what has come of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeAlias

from asyncckpt.errors import ConfigurationError
from asyncckpt.launch.config import ExperimentConfig, files
from asyncckpt.launch.config.environment import as_written
from asyncckpt.launch.config.references import composed
from asyncckpt.launch.config.validation import experiment
from asyncckpt.launch.grids.naming import folder_of

State: TypeAlias = Literal["planned", "submitted", "completed", "failed"]


class ExecutionMode(Enum):
    """SLURM: a job for each. LOCAL: a process for each, here. DRY_RUN: only what would be run is written down."""

    SLURM = "slurm"
    LOCAL = "local"
    DRY_RUN = "dry_run"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has come of one experiment: where it is `failed` there is a `reason`."""

    name: str
    state: State
    job_id: str | None = None
    reason: str | None = None
    seconds: float | None = None
    grid: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def check_limit(most: Any) -> None:
    """Raises `ConfigurationError` for what is no number of jobs at once."""
    if most is not None and (not isinstance(most, int) or most < 1):
        raise ConfigurationError(f"max_concurrent_jobs={most!r}: use a whole number, 1 or more, or None for no limit")


def prepared(config: ExperimentConfig, output_dir: Path) -> Path:
    """The configuration file of an experiment, in a folder of its name in `output_dir`.

    What was a variable of the environment is that in the file too, so the experiment needs it in its own environment.
    An experiment that is there already may be launched again, to go on. Raises `ConfigurationError` where that of the
    name is another one.
    """
    path = output_dir / folder_of(config.experiment_name) / "config.yaml"
    plain = files.as_plain(config)
    if path.exists():
        if files.as_plain(written_in(path)) != plain:
            raise ConfigurationError(f"{path} is there, of another experiment; take another output folder, or name")
        return path
    files.write(path, as_written(plain, config.written, is_literal=True), "yaml")
    return path


def written_in(path: Path) -> ExperimentConfig:
    """The experiment of a configuration file. Raises `ConfigurationError`."""
    found = composed([files.read(path, path.read_bytes())], {})
    return experiment(found.values, str(path), found.written)
