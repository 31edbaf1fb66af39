"""Landed: whether a job that a dead worker process had was committed by it, although nobody heard.

A job is known in the commit log by its writer, its step, the microsecond of its save call, and the nonce of its folder,
which is made from the job's id. No name is used twice for that: each attempt has an incarnation and a sequence number
of its own.
"""

from __future__ import annotations

from asyncckpt.errors import SaveFailed
from asyncckpt.format.digest import digest
from asyncckpt.format.names import directory_of
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.worker.commitlog.writer import Writer
from asyncckpt.worker.job import SaveJob


def nonce_of(job: str) -> str:
    """The nonce of the folders of every attempt at the job with that id."""
    return digest(job.encode())[:8]


def landed(writer: Writer, job: SaveJob) -> Record | None:
    """The listed record that committed `job` before `writer` took the run anew, or None.

    Raises `SaveFailed` where a later save of this training is committed: to write `job` now would make latest go back.
    """
    if (record := find(writer, job)) is not None:
        return record
    own = [r.checkpoint for r in writer.listed.records if r.writer.nonce == writer.nonce and r.checkpoint is not None]
    if later := [checkpoint.step for checkpoint in own if checkpoint.created > job.created]:
        raise SaveFailed(
            f"whether step {job.step} was committed is not known: its worker died, and step {later[-1]}, which was "
            "saved later, is durable"
        )
    return None


def find(writer: Writer, job: SaveJob) -> Record | None:
    """The record by which this writer has committed `job`, if it is listed."""
    for record in writer.listed.records:
        if record.writer.nonce == writer.nonce and record.checkpoint is not None and _is_of(record.checkpoint, job):
            return record
    return None


def _is_of(checkpoint: Checkpoint, job: SaveJob) -> bool:
    directory = directory_of(checkpoint.manifest.key)
    return (
        (checkpoint.step, checkpoint.created) == (job.step, job.created)
        and directory is not None
        and directory.nonce == nonce_of(job.id)
    )
