"""Local: the tier on a nearer disk, which has every save before home has it.

A save is written there first, from the same memory and under the same names, and committed in that tier's own records;
then it goes home. So what is there is the same checkpoint, or one that home has not got (yet): what nobody could bring
home before the training was killed is brought there by the next one, before it goes on. Whatever happens to this tier
is told in events, in metrics and in the log, and reaches no save.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from asyncckpt.catalog import Catalog
from asyncckpt.clock import Clock
from asyncckpt.errors import (
    Fenced,
    OutcomeUnknown,
    RunContended,
    RunError,
    SaveSkipped,
    StorageError,
)
from asyncckpt.events import LOCAL, Fallback, Leftover, Listeners, TierDurable, TierFailed
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.storage.base import Storage
from asyncckpt.worker.attempt import Attempt
from asyncckpt.worker.bringing import is_above
from asyncckpt.worker.describing import describe
from asyncckpt.worker.home import Seen
from asyncckpt.worker.increment import Base
from asyncckpt.worker.job import Landed, Missed
from asyncckpt.worker.ownership import Ownership
from asyncckpt.worker.pipeline import Digesting, Packing
from asyncckpt.worker.ticket import Ticket
from asyncckpt.worker.tier import Tier
from asyncckpt.worker.writer import Writer, home_of

logger = logging.getLogger("asyncckpt")

KEEP = RetentionPolicy(last=2)
"""What stays there, beside the best, and what home has not got: nobody resumes from anything older."""


class LocalTier:
    """The tier in `storage` of the run that `ownership` is to take; all calls but `hurry` come from one actor."""

    def __init__(
        self,
        storage: Storage,
        ownership: Ownership,
        home: Catalog,
        monitor: Monitor | None,
        told: Listeners,
        clock: Clock,
    ) -> None:
        self._tier = Tier(LOCAL, storage, KEEP, monitor, told, clock, ownership.overwritten)
        self._ownership = ownership
        self._home = home
        self._monitor = monitor
        self._listeners = told
        self._clock = clock
        self._is_over = False
        self._has_fallen_back = False
        self._left: list[DataDirectory] = []
        """Attempts that are here and did not come home: what there is of them there is as good as here, for now."""
        self.hurry = self._tier.hurry

    @property
    def tier(self) -> Tier:
        """What it is like any other tier."""
        return self._tier

    @property
    def _storage(self) -> Storage:
        return self._tier.catalog.storage

    async def look(self) -> Seen:
        """Before home is taken, see `Tier.look`."""
        return await self._tier.look(self._home)

    # -- a save --------------------------------------------------------------------------------------------

    async def open(self, ticket: Ticket, home: Writer) -> Writer | None:
        """This tier for a save of `home`, which numbers it above all that is here; None where it is not to be had.

        Raises `CheckpointDirectoryExistsError` beside checkpoints of an earlier training that nobody resumed.
        """
        if self._is_over:
            return None
        if ticket.watermark.is_windowed:
            self._fall_back()
            return None
        try:
            own = await self._tier.open(home_of(home))
        except Exception as error:
            self.failed(ticket.job.step, error)
            ticket.reply(Missed(error))
            return None
        self._ownership.check_resumed(own.listed, self._storage.url)
        home.next_seq = max(home.next_seq, own.next_seq)
        return own

    def _fall_back(self) -> None:
        if not self._has_fallen_back:
            self._has_fallen_back = True
            reason = "a snapshot goes through the staging window once, and into the root: a larger budget avoids that"
            self._listeners.emit(Fallback(LOCAL, f"nothing is saved in {self._storage.url}: {reason}"))

    async def land(
        self, attempt: Attempt, home: Writer, own: Writer, packing: Packing, digested: Digesting, *, prunes: bool
    ) -> Base | None:
        """Save an attempt here; returns what it may share at home, where it has to be the same checkpoint.

        Raises what is wrong with the snapshot, and `SaveSkipped` where there is no time to take it home.
        """
        ticket, began = attempt.ticket, self._clock.monotonic()
        # What is not here cannot be shared: then the save is whole, here and at home.
        base = home.base if home.base is not None and _has(own, home.base) else None
        here = replace(packing, storage=self._storage)
        try:
            written = await here.put(digested, base)
            await asyncio.get_running_loop().run_in_executor(packing.threads, packing.watermark.wait_sealed)
            checkpoint = await describe(
                *(packing.job, home, packing.directory, written.contents),
                *(self._storage, self._monitor, packing.threads),
            )
            self._tier.spare(c.seq for c in own.listed if is_above(c, home))
            verdict = await self._tier.commit(own, checkpoint, prunes=prunes)
        except Exception as error:
            if not isinstance(error, Fenced | OutcomeUnknown):
                await self._discard(packing.directory, self._storage)
            if packing.watermark.error is not None:
                raise  # there is no snapshot, here or anywhere
            self.failed(packing.job.step, error)
            ticket.reply(Missed(error))
            return home.base
        attempt.landed = True
        self._durable(LOCAL, checkpoint, written.nbytes, self._clock.monotonic() - began)
        ticket.reply(Landed(own.head))
        if packing.job.local_only:
            raise SaveSkipped(
                f"step {packing.job.step} is saved in {self._storage.url} only: there was no time for the root; the "
                "next resume() with that local tier brings it there"
            )
        if prunes:
            await self._tier.follow_up(own, verdict)
        return base

    def tell_again(self, ticket: Ticket, own: Writer | None, record: Record) -> None:
        """What is at home by `record` had landed here before, or not; who was told is no more."""
        checkpoint = record.checkpoint
        if own is not None and checkpoint is not None and checkpoint.seq in own.listed:
            ticket.reply(Landed(own.listed.record(checkpoint.seq)))

    def leave_behind(self, directory: DataDirectory) -> None:
        """An attempt that landed did not come home: what was put there stays, for whoever may bring it."""
        self._left.append(directory)

    async def passed(self, home: Writer) -> None:
        """A newer checkpoint is at home: what others left there on their way is of no use any more."""
        left, self._left = self._left, []
        for directory in left:
            if directory.seq not in home.listed:
                await self._discard(directory, home.catalog.storage)

    async def amend(self, home: Writer, checkpoint: Checkpoint) -> None:
        """Late metrics of a checkpoint of home."""
        if not self._is_over:
            try:
                await self._tier.amend(home_of(home), checkpoint)
            except Exception as error:
                self.failed(checkpoint.step, error)

    def found(self, finding: Finding, damage: Damage) -> None:
        """A copy here was found damaged."""
        self._tier.found(finding, damage)

    # -- the end -------------------------------------------------------------------------------------------

    async def idle(self) -> None:
        """Wait for sweep and deletion under way."""
        await self._tier.idle()

    async def finish(self, *, tidy: bool) -> None:
        """Leave the tier in order."""
        if not self._is_over:
            await self._tier.leave(tidy=tidy)
        await self._storage.aclose()

    # -- what is told --------------------------------------------------------------------------------------

    def _durable(self, tier: str, checkpoint: Checkpoint, written: int, spent: float) -> None:
        now = self._clock.time()
        seconds = now - checkpoint.created / 1e6
        self._listeners.emit(
            TierDurable(tier, checkpoint.step, checkpoint.seq, checkpoint.size, written, seconds, now, spent)
        )

    def failed(self, step: int | None, error: Exception) -> None:
        """See `Source.failed`; a save there may have failed too."""
        self._is_over = isinstance(error, RunError) and not isinstance(error, RunContended)
        self._listeners.emit(TierFailed(LOCAL, step, error, self._is_over))

    async def _discard(self, directory: DataDirectory, storage: Storage) -> None:
        """Delete an attempt: its name is in no record, and will never be."""
        try:
            await storage.delete([found.key async for found in storage.list(directory.key + "/")])
        except StorageError as error:
            self._listeners.emit(Leftover(f"the attempt in {directory.key}", error))


def _has(own: Writer, base: Base) -> bool:
    return all(pack.key in own.listed.uses for pack in base.contents.packs)
