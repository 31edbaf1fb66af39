"""Launcher: experiments as jobs of Slurm."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyncckpt.errors import AsyncCkptError, ConfigurationError, JobSubmissionError, SLURMError
from asyncckpt.launch.config import ExperimentConfig, files
from asyncckpt.launch.config.scalars import member
from asyncckpt.launch.execution import ExecutionMode, check_limit, prepared
from asyncckpt.launch.git import GitManager
from asyncckpt.launch.slurm.commands import Unanswered, called
from asyncckpt.launch.slurm.options import check_time, job_name, options, waiting
from asyncckpt.launch.slurm.status import LIVELY, JobStatus, addressed, is_job, status_of
from asyncckpt.launch.slurm.submissions import Submissions
from asyncckpt.launch.slurm.template import Template
from asyncckpt.revision import code_version

logger = logging.getLogger("asyncckpt")

_SUBMITTED = re.compile(r"(\d+(?:;\S+)?)|Submitted batch job (\d+)(?: on cluster (\S+))?")

PLANNED = "dry-run"
"""The job id of what was only written down."""


@dataclass(frozen=True, slots=True)
class BatchSubmissionResult:
    """Job ids of the experiments that were submitted, and reasons of those that were not, by name."""

    successful: Mapping[str, str]
    failed: Mapping[str, str]

    @property
    def success_rate(self) -> float:
        """The share that was submitted; 1 of none."""
        total = len(self.successful) + len(self.failed)
        return len(self.successful) / total if total else 1.0


class SLURMLauncher:
    """Submits experiments with the script at `slurm_template_path`, each from a folder of its own in `output_dir`.

    The folder gets ``config.yaml``, ``job.sh``, what the job prints, and ``submissions.jsonl``: job ids, times, the
    code version of `git_manager`'s repository, or of the program's. By those an experiment whose job waits, runs or has
    come to a good end is known, and not submitted again. Jobs start in `project_root`. Raises `ConfigurationError` for
    a template that cannot be used.
    """

    def __init__(
        self,
        slurm_template_path: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        git_manager: GitManager | None = None,
        *,
        project_root: str | os.PathLike[str] = ".",
    ) -> None:
        self._template = Template(Path(slurm_template_path))
        self.output_dir = Path(output_dir).resolve()
        self._project_root = Path(project_root).resolve()
        self._git = git_manager

    def submit_experiment(
        self,
        experiment_config: ExperimentConfig,
        execution_mode: ExecutionMode = ExecutionMode.SLURM,
        *,
        resubmit: bool = False,
    ) -> str:
        """The id of the job that the experiment has become; with DRY_RUN everything is written, and nothing submitted.

        The job is told to stop with the signal and the grace that the preemption section says, and put back where that
        says so. One that waits, runs or has come to a good end is what the experiment has become already, and another
        is submitted only with `resubmit`. Raises `JobSubmissionError`, and `ConfigurationError` for another experiment
        of that name, and for a time limit that leaves no time before the grace.
        """
        return self._submit(experiment_config, execution_mode, None, resubmit).id

    def submit_experiment_batch(
        self,
        experiments: Sequence[ExperimentConfig],
        execution_mode: ExecutionMode = ExecutionMode.SLURM,
        max_concurrent_jobs: int | None = None,
        *,
        resubmit: bool = False,
    ) -> BatchSubmissionResult:
        """Submit all; of those at most `max_concurrent_jobs` run at once, and the others wait in Slurm's queue.

        One that fails stops no other; `resubmit` as for one. Raises `ConfigurationError` for a limit below 1 and for a
        name that two have.
        """
        check_limit(max_concurrent_jobs)
        execution_mode = member(ExecutionMode, execution_mode, "execution_mode")
        names = Counter(each.experiment_name for each in experiments)
        if twice := next((name for name, count in names.items() if count > 1), None):
            raise ConfigurationError(f"there are several experiments named {twice}")
        successful: dict[str, str] = {}
        failed: dict[str, str] = {}
        running: deque[str] = deque(maxlen=max_concurrent_jobs)
        for each in experiments:
            after = running[0] if len(running) == max_concurrent_jobs else None
            try:
                job = self._submit(each, execution_mode, after, resubmit)
            except (AsyncCkptError, OSError) as error:
                logger.error("%s was not submitted: %s", each.experiment_name, error)
                failed[each.experiment_name] = str(error)
                continue
            successful[each.experiment_name] = job.id
            if not job.has_ended:
                running.append(job.id)
        return BatchSubmissionResult(successful, failed)

    def get_job_status(self, job_id: str) -> JobStatus:
        """How a job fares; UNKNOWN for one that Slurm does not know. Raises nothing."""
        return status_of(job_id)

    def cancel_job(self, job_id: str) -> bool:
        """Whether a job was there to be ended, and Slurm has taken the order."""
        # scancel is content with a job that is not there.
        return status_of(job_id) in LIVELY and self._ordered("scancel", job_id)

    def requeue_job(self, job_id: str) -> bool:
        """Whether Slurm has put a job back into the queue; a training does that for itself when it is preempted."""
        return self._ordered("scontrol", job_id, "requeue")

    def _ordered(self, program: str, job_id: str, *words: str) -> bool:
        if not is_job(job_id):
            logger.error("%r is no job of Slurm", job_id)
            return False
        try:
            number, where = addressed(job_id)
            called(program, *where, *words, number)
        except SLURMError as error:
            logger.error("job %s: %s", job_id, error)
            return False
        return True

    def _submit(self, config: ExperimentConfig, mode: ExecutionMode, after: str | None, resubmit: bool) -> _Job:
        mode = member(ExecutionMode, mode, "execution_mode")
        if mode is ExecutionMode.LOCAL:
            raise ConfigurationError(
                "a launcher of Slurm runs nothing locally: run_grid_search(execution_mode=LOCAL) does"
            )
        check_time(config, self._template)
        path = prepared(config, self.output_dir)
        folder = path.parent
        notes = Submissions(folder)
        if mode is ExecutionMode.SLURM and not resubmit and (there := _there(config, notes)) is not None:
            return there
        script = folder / "job.sh"
        files.write_text(script, self._template.filled(self._values(config, path)))
        if mode is ExecutionMode.DRY_RUN:
            return _Job(PLANNED)
        command = [
            *options(config, self._template, folder, self._project_root),
            *([waiting(config, self._template, after)] if after else []),
            str(script),
        ]
        notes.begin(config.experiment_name, resubmit=resubmit)
        job = _submitted(command, notes)
        version = code_version(self._git.root if self._git is not None else None)
        notes.end(job, {"code_version": str(version), "command": ["sbatch", *_shown(command, config)]})
        return _Job(job)

    def _values(self, config: ExperimentConfig, path: Path) -> dict[str, str]:
        return {
            "config_path": str(path),
            "experiment_name": config.experiment_name,
            "job_name": job_name(config),
            "output_dir": str(path.parent),
            "project_root": str(self._project_root),
        }


@dataclass(frozen=True, slots=True)
class _Job:
    """What an experiment has become."""

    id: str
    has_ended: bool = False


def _there(config: ExperimentConfig, notes: Submissions) -> _Job | None:
    """The job that the experiment is already, if it needs no other."""
    if (job := notes.last()) is None:
        return None
    try:
        status = status_of(job, is_sure=True)
    except SLURMError as error:
        raise JobSubmissionError(
            f"{config.experiment_name} was submitted as job {job}, and whether that still runs cannot be found out; "
            f"with resubmit=True it is submitted all the same: {error}"
        ) from error
    if status not in (*LIVELY, JobStatus.COMPLETED):
        return None
    logger.warning(
        "%s is job %s already, which is %s; with resubmit=True it is submitted again",
        config.experiment_name,
        job,
        status.value,
    )
    return _Job(job, has_ended=status is JobStatus.COMPLETED)


def _submitted(command: Sequence[str], notes: Submissions) -> str:
    """The job that sbatch makes."""
    try:
        said = called("sbatch", *command).strip()
    except Unanswered as error:
        raise JobSubmissionError(str(error)) from error
    except SLURMError as error:
        notes.gave_up()
        raise JobSubmissionError(str(error)) from error
    found = _SUBMITTED.fullmatch(said.splitlines()[-1] if said else "")
    if found is None:
        raise JobSubmissionError(f"sbatch said no job id: {said!r}; the job may be submitted")
    return found[1] or (f"{found[2]};{found[3]}" if found[3] else found[2])


def _shown(command: Sequence[str], config: ExperimentConfig) -> list[str]:
    """The command without what came from the environment, which may be a password."""
    known = {text: said for (_, text), said in config.written.items() if text}
    return [known.get(word) or _after_equals(word, known) for word in command]


def _after_equals(word: str, known: Mapping[str, str]) -> str:
    option, equals, value = word.partition("=")
    return f"{option}{equals}{known.get(value, value)}"
