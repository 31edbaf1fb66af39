"""Status: how a job fares, in the words of Slurm's programs and in ours."""

from __future__ import annotations

import logging
import re
from enum import Enum

from asyncckpt.errors import SLURMError
from asyncckpt.launch.slurm.commands import called

logger = logging.getLogger("asyncckpt")

_JOB = re.compile(r"([0-9]+(?:_[0-9]+)?(?:\+[0-9]+)?)(?:;([A-Za-z][\w.-]*))?", re.ASCII)
_ABSENT = "Invalid job id"
"""What squeue says of a job that is not in the queue, or not any more."""


class JobStatus(Enum):
    """How a job fares; UNKNOWN is one that nobody knows, or that could not be asked for."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"
    UNKNOWN = "UNKNOWN"


_OTHERS = {
    "CONFIGURING": JobStatus.PENDING,
    "REQUEUED": JobStatus.PENDING,
    "REQUEUE_FED": JobStatus.PENDING,
    "REQUEUE_HOLD": JobStatus.PENDING,
    "COMPLETING": JobStatus.RUNNING,
    "RESIZING": JobStatus.RUNNING,
    "SIGNALING": JobStatus.RUNNING,
    "STAGE_OUT": JobStatus.RUNNING,
    "STOPPED": JobStatus.SUSPENDED,
    "BOOT_FAIL": JobStatus.NODE_FAIL,
    "DEADLINE": JobStatus.TIMEOUT,
    "OUT_OF_MEMORY": JobStatus.FAILED,
    "SPECIAL_EXIT": JobStatus.FAILED,
    "REVOKED": JobStatus.CANCELLED,
}

LIVELY = (JobStatus.RUNNING, JobStatus.SUSPENDED, JobStatus.PENDING)
"""Of jobs that have not ended."""


def status_of(job_id: str, *, is_sure: bool = False) -> JobStatus:
    """How the job fares: what the queue says, or else the accounting.

    Raises nothing, but with `is_sure` `SLURMError` where it cannot be found out whether the job is in the queue.
    """
    if not is_job(job_id):
        return JobStatus.UNKNOWN
    number, where = addressed(job_id)
    for program, *arguments in (
        ("squeue", "--noheader", "--states=all", "--format=%T"),
        ("sacct", "--noheader", "--parsable2", "--allocations", "--format=State"),
    ):
        try:
            found = understood(called(program, *where, *arguments, f"--jobs={number}"))
        except SLURMError as error:
            if is_sure and program == "squeue" and _ABSENT not in str(error):
                raise
            logger.info("job %s: %s", job_id, error)
            continue
        if found is not JobStatus.UNKNOWN:
            return found
    logger.warning("job %s is unknown to squeue and sacct", job_id)
    return JobStatus.UNKNOWN


def is_job(job_id: object) -> bool:
    """Whether this is what Slurm calls a job: ``123``, ``123_4`` or ``123+1``, with ``;cluster`` of several."""
    return isinstance(job_id, str) and _JOB.fullmatch(job_id) is not None


def addressed(job_id: str) -> tuple[str, list[str]]:
    """The number of a job, and the option that says of which cluster it is; other clusters have that number too."""
    number, _, cluster = job_id.partition(";")
    return number, [f"--clusters={cluster}"] if cluster else []


def understood(said: str) -> JobStatus:
    """The status that the lines of squeue or sacct say; of several, of an array, what still goes on or went wrong."""
    found = [_word(line) for line in said.splitlines() if line.strip() and not line.startswith("CLUSTER:")]
    for lively in LIVELY:
        if lively in found:
            return lively
    return next((each for each in found if each is not JobStatus.COMPLETED), found[0] if found else JobStatus.UNKNOWN)


def _word(line: str) -> JobStatus:
    """One state: ``CANCELLED by 1000``, ``RUNNING+``."""
    word = line.split(maxsplit=1)[0].rstrip("+").upper()
    return _OTHERS.get(word) or (JobStatus[word] if word in JobStatus.__members__ else JobStatus.UNKNOWN)
