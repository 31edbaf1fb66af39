"""Homing: from the local tier to the root, behind the back of whoever saves.

A save that is on the local tier needs no memory any more: it is copied from there, every byte checked on the way, and
committed in the root, in the order of ``save``. Deletion there is not waited for: a save on the local tier shares with
the one that landed right before it, and so on; so what it names is named by what of these the root has last, which
nobody drops, or has never been there. A root that is slower than saves, or does not answer, holds up nothing
but this: of those that wait for it the newest takes the place of the older ones that may be passed, and their handles
say so. What fails is that save's failure; it stays on the local tier, for the next start to bring.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from asyncckpt.errors import CheckpointCorruptError, SaveFailed
from asyncckpt.events import Leftover, Listeners
from asyncckpt.format.record import Checkpoint
from asyncckpt.worker.abandoning import Abandoning
from asyncckpt.worker.answers import Answers
from asyncckpt.worker.attempt import Attempt
from asyncckpt.worker.commitlog.prune import over
from asyncckpt.worker.commitlog.writer import Writer
from asyncckpt.worker.copying import Copying, SourceFailed
from asyncckpt.worker.job import SaveJob
from asyncckpt.worker.landed import landed
from asyncckpt.worker.local import LocalTier
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.root import Root
from asyncckpt.worker.tier import clean_up

logger = logging.getLogger("asyncckpt")


class Homing:
    """Of what landed on `local`; on one event loop."""

    def __init__(self, local: LocalTier, root: Root, answers: Answers, pace: Pace, listeners: Listeners) -> None:
        self._local = local
        self._root = root
        self._answers = answers
        self._pace = pace
        self._listeners = listeners
        self._waiting: deque[Attempt] = deque()
        self._now: Attempt | None = None
        self._abandoning = Abandoning()
        self._brought: set[str] = set()
        """What was put in the root, or found there, and is in no record of it: what it was for did not get there."""
        self._task: asyncio.Task[None] | None = None
        local.on_its_way = lambda: None if self._now is None else self._now.seq

    def add(self, attempt: Attempt) -> None:
        """What landed as `attempt` is to go to the root."""
        attempt.phases.enter("queue")
        self._pass(attempt.ticket.job)
        self._waiting.append(attempt)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def _pass(self, newer: SaveJob) -> None:
        """Let those go that `newer` takes the place of: all of them in an emergency, which has no time for others."""
        for attempt in [a for a in self._waiting if a.ticket.job.passable or newer.emergency]:
            self._waiting.remove(attempt)
            self._answers.passed(attempt, newer.step)

    def abandon(self, job: str, by_step: int) -> None:
        """Take no more of `job` to the root, unless its record may be on its way there."""
        for attempt in [a for a in self._waiting if a.ticket.job.id == job]:
            self._waiting.remove(attempt)
            self._answers.passed(attempt, by_step)
        self._abandoning.abandon(job, by_step)

    async def cleared(self, newer: SaveJob) -> None:
        """Before `newer`, which did not land, goes to the root by itself: return once nothing else is on its way."""
        self._pass(newer)
        await self.finished()

    async def finished(self) -> None:
        """Return once nothing is on its way."""
        if self._task is not None:
            await over(self._task)

    async def _run(self) -> None:
        while self._waiting:
            self._now = attempt = self._waiting.popleft()
            attempt.phases.enter("write")
            with self._abandoning.until_over(attempt.ticket.job.id):
                async with self._root.lock:
                    await self._carry_out(attempt)
            self._now = None

    async def _carry_out(self, attempt: Attempt) -> None:
        try:
            copied = await self._abandoning.unless_abandoned(self._copied(attempt))
            if copied is None:
                return
            writer, checkpoint, copying = copied
            attempt.phases.enter("commit")
            attempt.recording = True
            verdict, record = await self._root.commit(writer, checkpoint, self._brought)
        except Exception as error:
            await self._answers.failed(attempt, error)
            return
        writer.base = None  # what is saved there without the local tier shares what it has written itself
        self._answers.durable(attempt, record, copying.written, copying.rested)
        try:
            await self._root.follow_up(writer, verdict)
            if not self._root.ownership.is_lost:  # by now somebody else may list what this writer does not
                await clean_up(writer, self._brought, self._listeners)
            self._local.tell_ahead(writer)
        except Exception as error:
            self._listeners.emit(Leftover("what follows a commit", error))

    async def _copied(self, attempt: Attempt) -> tuple[Writer, Checkpoint, Copying] | None:
        """Everything that its record will name, durable; None where a worker that died had committed it already."""
        writer, job = await self._root.take(), attempt.ticket.job
        # What landed may have an earlier incarnation in its name: to a sweep that has still to look, a put of it that
        # is under way is what a killed process left.
        await self._root.ownership.sweep_planned()
        if attempt.ticket.repeated and (record := landed(writer, job)) is not None:
            self._answers.durable(attempt, record, 0, 0.0)
            return None
        checkpoint = self._local.find(attempt.seq)
        if checkpoint is None:
            raise SaveFailed(
                f"step {job.step} was given up on the local tier before the root had it: there was no more room"
            )
        copying = Copying(self._local.catalog, self._root.storage, self._pace, self._brought)
        try:
            try:
                await copying.copy(checkpoint, writer.listed.uses)
            except SourceFailed as error:  # its memory is not there any more: a disk is asked twice
                logger.warning("step %d is read from the local tier again: %s", job.step, error)
                await copying.copy(checkpoint, writer.listed.uses)
        except SourceFailed as error:
            self._local.failed(job.step, error)
            raise SaveFailed(f"the local tier has step {job.step}, and cannot be read: {error}") from error
        except CheckpointCorruptError as error:
            if not await self._local.catalog.is_listed(checkpoint):
                raise SaveFailed(
                    f"step {job.step} was removed from the local tier, by another process, before the root had it"
                ) from error
            self._local.damaged(checkpoint, error)
            raise
        return writer, checkpoint, copying
