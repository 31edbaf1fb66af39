"""Attempt: one job on its way to a commit, from the folder that it is given to the record that may name it."""

from __future__ import annotations

import asyncio

from asyncckpt.errors import Fenced, OutcomeUnknown
from asyncckpt.events import HOME
from asyncckpt.format.names import DataDirectory
from asyncckpt.worker.announcements import attempt_json
from asyncckpt.worker.commitlog.writer import Writer
from asyncckpt.worker.job import Started
from asyncckpt.worker.landed import nonce_of
from asyncckpt.worker.phases import Phases
from asyncckpt.worker.ranks import Ranks, attempt_key
from asyncckpt.worker.ticket import Ticket


class Attempt:
    """How far a job has come, for its failure message."""

    def __init__(self, ticket: Ticket, phases: Phases) -> None:
        self.ticket = ticket
        self.phases = phases
        self.directory: DataDirectory | None = None
        self.announced = False
        self.tier = HOME
        """Where everyone was told to write."""
        self.landed = False
        """Whether the local tier has it."""
        self.is_in_root = False
        """Whether something of it may be there, put from memory."""
        self.is_uncertain = False
        """Whether the local tier may have it, under the number that it has now."""
        self.recording = False

    @property
    def seq(self) -> int:
        """The sequence number; 0 before it has one."""
        return 0 if self.directory is None else self.directory.seq

    def land(self) -> None:
        """The local tier has it, and its memory is needed no more."""
        self.landed = True
        self.ticket = self.ticket.without_memory()

    def may_be_recorded(self, error: Exception) -> bool:
        """Whether a record may name the attempt all the same; a fenced writer deletes nothing anyhow."""
        return isinstance(error, Fenced) or (self.recording and isinstance(error, OutcomeUnknown))

    async def begin(self, writer: Writer, ranks: Ranks, tier: str) -> DataDirectory:
        """Number the attempt and tell everyone where it goes."""
        job, self.tier = self.ticket.job, tier
        self.directory = directory = writer.attempt(job.step, nonce_of(job.id))
        if ranks.world > 1:
            said = attempt_json(writer.nonce, directory, tier)
            await asyncio.to_thread(ranks.publish, attempt_key(job.ordinal), said)
        self.announced = True
        self.phases.enter("write")
        self.ticket.reply(Started(directory.seq))
        return directory
