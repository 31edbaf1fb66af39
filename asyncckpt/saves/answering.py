"""Answering: what the worker says of each save, taken to its handle, on whatever thread it is said."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from asyncckpt.checkpoints.listing import info_of
from asyncckpt.errors import SaveSkipped, SaveSuperseded
from asyncckpt.saves.handing import WorkersPart
from asyncckpt.saves.handle import SaveHandle
from asyncckpt.saves.outcomes import Outcomes
from asyncckpt.saves.queued import Queued
from asyncckpt.worker.job import Committed, Declined, Landed, Missed, Rejected, SaveJob, Started
from asyncckpt.worker.ranks import Ranks, save_task
from asyncckpt.worker.ticket import Reply

logger = logging.getLogger("asyncckpt")


class Answering:
    """Of the saves of one checkpointer; what is begun is in the queue no more."""

    def __init__(self, outcomes: Outcomes, queued: Queued, ranks: Ranks) -> None:
        self._outcomes = outcomes
        self._queued = queued
        self._ranks = ranks
        self._begun: dict[str, SaveHandle] = {}
        self._gave_way: dict[str, int] = {}

    @property
    def begun(self) -> Mapping[str, SaveHandle]:
        """Jobs that the worker has begun and not answered: with a local tier also those on their way to the root."""
        return self._begun.copy()

    def given_up(self, job: str, by_step: int) -> None:
        """A job that may have been begun is given up for the save of `by_step`."""
        self._gave_way[job] = by_step

    def hear(self, job: SaveJob, handle: SaveHandle, arena: WorkersPart, reply: Reply) -> None:
        """Take the worker's reply to the handle."""
        if isinstance(reply, Started):
            self._begun[job.id] = handle
            self._queued.remove(job.id)
            handle._began(reply.seq)
            return
        if isinstance(reply, Landed | Missed):
            if isinstance(reply, Landed):  # what is still to be done is done from there; who is told finds memory free
                arena.let_go()
            _tell_of_tier(handle, reply)
            return
        self._queued.remove(job.id)
        self._begun.pop(job.id, None)
        gave_way_to = self._gave_way.pop(job.id, job.step)
        self._ranks.end(save_task(job.ordinal))
        arena.let_go()
        if isinstance(reply, Committed) and (checkpoint := reply.record.checkpoint) is not None:
            handle._end("durable", info=info_of(checkpoint))
        elif isinstance(reply, Declined):
            self._outcomes.let_go(handle, reply.by_step)
        elif isinstance(reply, Rejected):
            self._rejected(job, handle, reply, gave_way_to)

    def _rejected(self, job: SaveJob, handle: SaveHandle, reply: Rejected, gave_way_to: int) -> None:
        if isinstance(reply.error, SaveSuperseded):
            self._outcomes.let_go(handle, gave_way_to)
        elif isinstance(reply.error, SaveSkipped):
            logger.warning("%s", reply.error)
            self._outcomes.leave_out(handle, reply.error)
        elif reply.phase == "worker":  # a dead worker could not say so itself
            self._outcomes.failed(handle, job.ordinal, reply.phase, reply.error)
        else:
            self._outcomes.fail(handle, reply.phase, reply.error)


def _tell_of_tier(handle: SaveHandle, reply: Landed | Missed) -> None:
    if isinstance(reply, Missed):
        handle._missed(reply.error)
    elif reply.record.checkpoint is not None:
        handle._landed(info_of(reply.record.checkpoint))
