"""Slurm: experiments as jobs that are preempted, put back and go on.

::

    template         a batch script in which no value can be taken for a command
    script, readers  where a name stands in it, and who reads there again
    commands         sbatch, squeue, sacct, scancel, scontrol
    options          what a job asks for
    submissions      what was submitted already
    status           how a job fares
    launcher         `SLURMLauncher`

A job that is told to stop saves and puts itself back: that is `asyncckpt.Preemption`'s, see
`PreemptionConfig.settings`.
"""

from asyncckpt.errors import JobSubmissionError, SLURMError
from asyncckpt.launch.git import GitManager, GitOperationError
from asyncckpt.launch.slurm.launcher import BatchSubmissionResult, SLURMLauncher
from asyncckpt.launch.slurm.status import JobStatus

__all__ = [
    "BatchSubmissionResult",
    "GitManager",
    "GitOperationError",
    "JobStatus",
    "JobSubmissionError",
    "SLURMError",
    "SLURMLauncher",
]
