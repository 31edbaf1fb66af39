"""Framework: one project from which experiments are launched."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncckpt.errors import ConfigurationError, ValidationError
from asyncckpt.launch import local
from asyncckpt.launch.config import ConfigurationManager, ExperimentConfig
from asyncckpt.launch.config.scalars import member
from asyncckpt.launch.execution import ExecutionMode, Outcome, check_limit, prepared
from asyncckpt.launch.grids import Combination, NamingStrategy, ParameterGrid, ParameterGridSearch
from asyncckpt.launch.grids.result import GridSearchResult, earlier
from asyncckpt.launch.project import ensure_directory_exists
from asyncckpt.launch.slurm import SLURMLauncher

BaseConfig = Mapping[str, Any] | ExperimentConfig | str | os.PathLike[str]
"""A configuration, or the path of its file."""


class ModelTrainingFramework:
    """The project in `project_root`, whose configurations are in `config_dir`, by default ``configs``.

    `slurm_template_path`: the batch script that jobs are made of; without one there is no launcher for Slurm.
    """

    def __init__(
        self,
        project_root: str | os.PathLike[str],
        config_dir: str | os.PathLike[str] | None = None,
        slurm_template_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.project_root = Path(project_root).resolve()
        self._template = None if slurm_template_path is None else self.project_root / slurm_template_path
        self._configs = ConfigurationManager(self.project_root, config_dir)

    def get_config_manager(self) -> ConfigurationManager:
        """The project's configurations."""
        return self._configs

    def get_slurm_launcher(self, output_dir: str | os.PathLike[str] | None = None) -> SLURMLauncher:
        """A launcher of jobs, whose outputs are in `output_dir`. Raises `ConfigurationError` without a template."""
        if self._template is None:
            raise ConfigurationError(
                "jobs of Slurm are made of a template: ModelTrainingFramework(slurm_template_path=)"
            )
        return SLURMLauncher(self._template, self._output(output_dir), project_root=self.project_root)

    def run_grid_search(
        self,
        parameter_grids: Sequence[ParameterGrid],
        base_config: BaseConfig | None = None,
        base_config_path: str | os.PathLike[str] | None = None,
        execution_mode: ExecutionMode = ExecutionMode.SLURM,
        output_dir: str | os.PathLike[str] | None = None,
        max_concurrent_jobs: int | None = None,
        *,
        command: Sequence[str] | None = None,
        naming: NamingStrategy = NamingStrategy.HASH_BASED,
        resubmit: bool = False,
    ) -> GridSearchResult:
        """Run an experiment for each combination of each grid over one base; what came of them is in files as well.

        SLURM submits jobs, of which `max_concurrent_jobs` run at once; LOCAL runs `command` for each, in the project,
        so many at once (1 if nothing is said), with ``{config}``, ``{output_dir}`` and ``{name}`` in it replaced, and
        returns when all have ended; DRY_RUN only writes into `output_dir`, by default ``experiments``. The same
        combination is the same experiment in every search, and goes on; one whose job waits, runs or has come to a good
        end stays with that job, unless `resubmit`. What fails is in the result with its reason. Raises
        `ConfigurationError`, and `ValidationError` with every combination that cannot be, before anything is launched.
        """
        started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        mode = member(ExecutionMode, execution_mode, "execution_mode")
        naming = member(NamingStrategy, naming, "naming")
        check_limit(max_concurrent_jobs)
        if isinstance(parameter_grids, ParameterGrid):
            raise ConfigurationError("parameter_grids is one grid: give a list of them")
        if isinstance(command, str):
            raise ConfigurationError('command is a text: give its words, [sys.executable, "train.py", "{config}"]')
        output = self._output(output_dir)
        existing = [path.name for path in output.iterdir()] if output.is_dir() else []
        known = list(earlier(output)) if naming is NamingStrategy.SEQUENTIAL else []
        search = ParameterGridSearch(self._base(base_config, base_config_path), existing=existing, earlier=known)
        search.set_naming_strategy(naming)
        for grid in parameter_grids:
            search.add_grid(grid)
        launch = self._launching(mode, output, max_concurrent_jobs, command, resubmit)
        combinations = list(search.combinations())
        experiments = _experiments(search, combinations)
        ensure_directory_exists(output)  # before anything runs, of which the result could not be written
        outcomes = launch(experiments)
        told = [replace(o, grid=c.grid, parameters=c.parameters) for o, c in zip(outcomes, combinations, strict=True)]
        seconds = round(time.monotonic() - began, 3)
        result = GridSearchResult(mode, output, tuple(told), seconds, started)
        result.save()
        return result

    def _output(self, given: str | os.PathLike[str] | None) -> Path:
        return self.project_root / (given if given is not None else "experiments")

    def _base(
        self, config: BaseConfig | None, path: str | os.PathLike[str] | None
    ) -> Mapping[str, Any] | ExperimentConfig:
        given = config if path is None else path
        if given is None or (config is not None and path is not None):
            raise ConfigurationError("run_grid_search takes one base: base_config, or base_config_path")
        return self._configs.read(given) if isinstance(given, str | os.PathLike) else given

    def _launching(
        self, mode: ExecutionMode, output: Path, limit: int | None, command: Sequence[str] | None, resubmit: bool
    ) -> Callable[[Sequence[ExperimentConfig]], Sequence[Outcome]]:
        """How experiments are launched; raises `ConfigurationError` where they cannot be."""
        if mode is ExecutionMode.SLURM:
            launcher = self.get_slurm_launcher(output)
            return lambda experiments: _submitted(launcher, experiments, limit, resubmit)
        if mode is ExecutionMode.DRY_RUN:
            script = None if self._template is None else self.get_slurm_launcher(output)
            return lambda experiments: [_planned(each, output, script) for each in experiments]
        if not command:
            raise ConfigurationError('LOCAL needs the command: command=[sys.executable, "train.py", "{config}"]')
        return lambda experiments: self._run(experiments, output, limit or 1, command)

    def _run(
        self, experiments: Sequence[ExperimentConfig], output: Path, limit: int, command: Sequence[str]
    ) -> Sequence[Outcome]:
        outcomes: dict[str, Outcome] = {}
        processes = []
        for each in experiments:
            try:
                config = prepared(each, output)
            except (OSError, ValueError) as error:
                outcomes[each.experiment_name] = Outcome(each.experiment_name, "failed", reason=str(error))
                continue
            words = {"config": str(config), "output_dir": str(config.parent), "name": each.experiment_name}
            filled = [_filled(word, words) for word in command]
            processes.append(
                local.Process(each.experiment_name, filled, self.project_root, config.parent / "output.log")
            )
        outcomes |= {outcome.name: outcome for outcome in local.run(processes, limit)}
        return [outcomes[each.experiment_name] for each in experiments]


def _filled(word: str, words: Mapping[str, str]) -> str:
    return re.sub(r"\{(config|output_dir|name)\}", lambda found: words[found[1]], word)


def _experiments(search: ParameterGridSearch, combinations: Sequence[Combination]) -> list[ExperimentConfig]:
    """All experiments; raises `ValidationError` with what is wrong with each that cannot be."""
    made: list[ExperimentConfig] = []
    wrong: dict[str, str] = {}
    for each in combinations:
        try:
            made.append(search.experiment(each))
        except ValidationError as error:
            wrong[each.name] = str(error)
    if wrong:
        raise ValidationError("nothing was launched:\n" + "\n".join(wrong.values()), wrong)
    return made


def _submitted(
    launcher: SLURMLauncher, experiments: Sequence[ExperimentConfig], limit: int | None, resubmit: bool
) -> list[Outcome]:
    batch = launcher.submit_experiment_batch(experiments, ExecutionMode.SLURM, limit, resubmit=resubmit)
    return [
        Outcome(name, "submitted", job_id=batch.successful[name])
        if name in batch.successful
        else Outcome(name, "failed", reason=batch.failed[name])
        for name in (each.experiment_name for each in experiments)
    ]


def _planned(config: ExperimentConfig, output: Path, launcher: SLURMLauncher | None) -> Outcome:
    try:
        if launcher is None:
            prepared(config, output)
        else:
            launcher.submit_experiment(config, ExecutionMode.DRY_RUN)
    except (ConfigurationError, OSError) as error:
        return Outcome(config.experiment_name, "failed", reason=str(error))
    return Outcome(config.experiment_name, "planned")
