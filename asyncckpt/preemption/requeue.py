"""Requeue: how the job gets back into the queue of its scheduler."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

logger = logging.getLogger("asyncckpt")

Requeue: TypeAlias = Literal["none", "auto", "scontrol", "submitit"]
REQUEUES: tuple[str, ...] = get_args(Requeue)


def is_submitits(handler: Callable[..., Any]) -> bool:
    """Whether a signal handler is one of submitit's: it saves, puts the job back, and ends the process."""
    owner = type(getattr(handler, "__self__", None))
    return owner.__module__.partition(".")[0] == "submitit"


def slurm_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job as ``scontrol`` names it, or None outside of Slurm."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID") or None


def scontrol(timeout: float) -> bool:
    """Put the Slurm job that this process belongs to back; whether that was done. Raises nothing."""
    job = slurm_job()
    if job is None:
        logger.error("the job was not put back: there is no SLURM_JOB_ID")
        return False
    # Said before: Slurm kills the job's steps as it puts it back, and with them whoever would say that it was done.
    logger.info("job %s goes back into the queue", job)
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=timeout, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        logger.error("scontrol requeue %s failed (%s): %s", job, error.returncode, error.stderr.strip())
        return False
    except (OSError, subprocess.SubprocessError) as error:
        logger.error("scontrol requeue %s failed: %s", job, error)
        return False
    return True
