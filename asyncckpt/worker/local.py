"""Local: the tier on a nearer disk, which has every save before home has it.

A save is written there first, from the memory that it was copied into, and committed in that tier's own records; from
there it goes home. So what is there is the same checkpoint as at home, or one that home has not got (yet): what nobody
could take home before the training was killed is brought there by the next one, before it goes on. Whatever happens to
this tier is told in events, in metrics and in the log, and reaches no save.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.marking import damage_of
from asyncckpt.clock import Clock
from asyncckpt.errors import (
    CheckpointCorruptError,
    Fenced,
    OutcomeUnknown,
    RanksDiffer,
    RunContended,
    RunError,
    SaveError,
    SaveSkipped,
    TransientError,
)
from asyncckpt.events import LOCAL, Ahead, Damaged, Fallback, Listeners, TierDurable, TierFailed
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.retention import RetentionPolicy
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import Bounded, unbounded
from asyncckpt.worker import room
from asyncckpt.worker.attempt import Attempt
from asyncckpt.worker.commitlog.aftermath import discard
from asyncckpt.worker.commitlog.home import Seen, above
from asyncckpt.worker.commitlog.ownership import Ownership
from asyncckpt.worker.commitlog.writer import Writer, home_of
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.describing import describe
from asyncckpt.worker.increment import Base, next_base
from asyncckpt.worker.job import Landed, Missed, SaveJob
from asyncckpt.worker.pipeline import Digesting, Packing
from asyncckpt.worker.ranks import Ranks, held_key, landed_key
from asyncckpt.worker.reports import ShardFailed, gather
from asyncckpt.worker.ticket import Ticket
from asyncckpt.worker.tier import Tier

logger = logging.getLogger("asyncckpt")

KEEP = RetentionPolicy(last=2)
"""What stays there, beside the best, and what home has not got: nobody resumes from anything older."""

ROOM = 2
"""Snapshots for which there has to be room before one is written: it, and the next one, before older ones are gone."""


class LocalTier:
    """The tier in `storage` of the run that `ownership` is to take; all calls but `hurry` come from one actor."""

    def __init__(
        self,
        storage: Bounded,
        ownership: Ownership,
        home: Catalog,
        config: ServiceConfig,
        told: Listeners,
        clock: Clock,
        ranks: Ranks,
    ) -> None:
        self._bounded = storage
        self.tier = Tier(LOCAL, storage, KEEP, config.monitor, told, clock, ownership.overwritten)
        self._ownership = ownership
        self._home = home
        self._config = config
        self._listeners = told
        self._clock = clock
        self._ranks = ranks
        self._is_over = False
        self._has_fallen_back = False
        self._doubted: set[int] = set()
        """Ranks that could not write their part here last time."""
        self._own: Writer | None = None
        """This tier as it was taken last."""
        self.on_its_way: Callable[[], int | None] = lambda: None
        """The sequence number of what is being copied home now."""
        self.catalog = self.tier.catalog

    @property
    def _storage(self) -> Storage:
        return self.tier.catalog.storage

    def hurry(self) -> None:
        """Wait no longer than there is time for in an emergency, and leave to the next start what can be left."""
        self._bounded.is_hurried = True
        self.tier.hurry()

    async def look(self) -> Seen:
        """Before home is taken, see `Tier.look`."""
        return await self.tier.look(self._home)

    def hold(self, seq: int) -> AbstractContextManager[None]:
        """Keep retention of this tier away from a checkpoint that is being read."""
        return self.tier.hold(seq)

    # -- a save --------------------------------------------------------------------------------------------

    async def open(self, ticket: Ticket, home: Writer, *, is_hasty: bool) -> Writer | None:
        """This tier for a save of `home`, which numbers it above all that is here; None where it is not to be had.

        `is_hasty`: there is no time to wait long for it.
        Raises `CheckpointDirectoryExistsError` beside checkpoints of an earlier training that nobody resumed.
        """
        if self._is_over:
            return None
        self._bounded.is_hurried = is_hasty
        if ticket.watermark.is_windowed:
            self._fall_back()
            self.share_nothing()
            return None
        try:
            self._bounded.check()
            await self._check_others()
            self._own = own = await self.tier.open(home_of(home))
        except Exception as error:
            self.failed(ticket.job.step, error)
            ticket.reply(Missed(error))
            return None
        self._ownership.check_resumed(own.listed, self._storage.url)
        home.next_seq = max(home.next_seq, own.next_seq)
        return own

    async def _check_others(self) -> None:
        """Raise `TransientError` while the disk hangs for another rank: without its part nothing is listed here."""
        for rank in sorted(self._doubted):
            try:
                said = await asyncio.to_thread(self._ranks.peek, held_key(rank))
            except ConnectionError:  # then that rank's part will show it
                said = None
            if said is not None and said["held"]:
                raise TransientError(f"{self._storage.url}: it hangs for rank {rank}, whose part would be missing")
            self._doubted.discard(rank)

    def share_nothing(self) -> None:
        """The next save here is a full one: what home has last, or goes on from, is not what landed here last.

        What only that has may be dropped at home, and what became unreachable in a tier has to stay so.
        """
        if self._own is not None:
            self._own.base = None

    def _fall_back(self) -> None:
        if not self._has_fallen_back:
            self._has_fallen_back = True
            reason = "a snapshot goes through the staging window once, and into the root: a larger budget avoids that"
            self._listeners.emit(Fallback(LOCAL, f"nothing is saved in {self._storage.url}: {reason}"))

    async def land(
        self, attempt: Attempt, home: Writer, own: Writer, packing: Packing, digested: Digesting, *, prunes: bool
    ) -> bool:
        """Save an attempt here; returns whether it is: then nothing of its arena is needed any more.

        Raises what is wrong with the snapshot, and `SaveSkipped` where there is no time to take it home.
        """
        job, began = packing.job, self._clock.monotonic()
        # What was committed here last, unless that is gone by now.
        base = own.base if own.base is not None and _has(own, own.base) else None
        here = replace(packing, storage=self._storage)
        try:
            if prunes:
                await self._make_room(home, own, job)
            written = await here.put(digested, base)
            await asyncio.get_running_loop().run_in_executor(packing.threads, packing.watermark.wait_sealed)
            directory = packing.directory
            contents = await gather(job, written.contents, directory, home.nonce, self._storage, self._ranks)
            checkpoint = await describe(*(job, home, directory, contents, self._storage, self._config, packing.threads))
            self.tier.spare(c.seq for c in self._ahead(home, own))
            verdict = await self.tier.commit(own, checkpoint, prunes=prunes)
        except Exception as error:
            own.base = None
            if isinstance(error, ShardFailed):
                self._doubted.add(error.rank)
            # Where the disk hangs a put of it may be under way still, which reads its memory: see `Bounded`. So its
            # name is never used again, nor is anything deleted that may come to be there only after that.
            attempt.is_uncertain = isinstance(error, Fenced | OutcomeUnknown) or self._bounded.is_held
            if not attempt.is_uncertain:
                await discard(packing.directory, self._storage, self._listeners)
            if packing.watermark.error is not None or _is_of_ranks(error):
                raise  # there is no snapshot, here or anywhere
            self.failed(job.step, error)
            attempt.ticket.reply(Missed(error))
            return False
        # Not with a partial one: that is never the latest at home, which may drop it while the next is on its way.
        own.base = None if checkpoint.partial else next_base(base, contents, written.turnover)
        if not checkpoint.partial:
            home.parent = checkpoint.seq
        attempt.land()
        self._durable(checkpoint, written.nbytes, self._clock.monotonic() - began)
        self.tell_landed(attempt.ticket, own.head)
        self.tell_ahead(home)
        if job.local_only:
            raise SaveSkipped(
                f"step {job.step} is saved in {self._storage.url} only: there was no time for the root; the next "
                "resume() with that local tier brings it there"
            )
        if prunes:
            await self.tier.follow_up(own, verdict)
        return True

    def tell_landed(self, ticket: Ticket, record: Record) -> None:
        """`record` of this tier has a save, every rank's part of it: none of them needs its memory any more."""
        ticket.reply(Landed(record))
        if self._ranks.world > 1:
            self._ranks.tell(landed_key(ticket.job.ordinal), {"landed": record.encode().decode("ascii")})

    def find(self, seq: int) -> Checkpoint | None:
        """What is listed here under that number, as far as is known."""
        if self._own is None or seq not in self._own.listed:
            return None
        return self._own.listed.record(seq).checkpoint

    # -- what home has not got -----------------------------------------------------------------------------

    def _ahead(self, home: Writer, own: Writer) -> list[Checkpoint]:
        """What is here and may come home still, by rising sequence number."""
        return above(home.head, home.listed, own.listed)

    def tell_ahead(self, home: Writer, given_up: int = 0) -> None:
        """How much that is."""
        if self._own is not None:
            ahead = self._ahead(home, self._own)
            sizes = {pack.key: pack.length for checkpoint in ahead for pack in checkpoint.packs}
            self._listeners.emit(Ahead(len(ahead), sum(sizes.values()), given_up))

    async def _make_room(self, home: Writer, own: Writer, job: SaveJob) -> None:
        """Give up the oldest of what home has not got, but for the newest and what somebody needs, for want of room.

        A tier never drops what the next one has not got as long as it can: of a root that is away for long only the
        newest is worth a disk that can take no more.
        """
        look = partial(room.free, unbounded(self._storage))
        available = await self._bounded.blocking("free space", look)
        if available is None or available >= (wanted := ROOM * job.layout.size):
            return
        newest = sorted(c.seq for c in own.listed)[-(KEEP.last or 0) :]
        kept = {*newest, self.on_its_way(), *await self.tier.needed()}
        best = own.listed.contest.best()
        given_up = []
        for checkpoint in self._ahead(home, own):
            if available < wanted and checkpoint.seq not in kept and checkpoint is not best:
                given_up.append(checkpoint)
                available += sum(p.length for p in checkpoint.packs if p.key.startswith(checkpoint.folder + "/"))
        if not given_up:
            return
        steps = ", ".join(str(c.step) for c in given_up)
        logger.warning(
            "the disk of %s has no more room: what is oldest (step %s), which the root has not got, is given up there: "
            "newer ones are kept",
            *(self._storage.url, steps),
        )
        await self.tier.give_up(own, given_up, "no room was left, and the root has not got it yet")
        self.tell_ahead(home, len(given_up))

    async def amend(self, home: Writer, checkpoint: Checkpoint) -> None:
        """Late metrics of a checkpoint of home."""
        if not self._is_over:
            try:
                await self.tier.amend(home_of(home), checkpoint)
            except Exception as error:
                self.failed(checkpoint.step, error)

    # -- the end -------------------------------------------------------------------------------------------

    async def idle(self) -> None:
        """Wait for sweep and deletion under way."""
        await self.tier.idle()

    async def finish(self, *, tidy: bool) -> None:
        """Leave the tier in order."""
        if not self._is_over:
            await self.tier.leave(tidy=tidy)
        await self._storage.aclose()

    # -- what is told --------------------------------------------------------------------------------------

    def _durable(self, checkpoint: Checkpoint, written: int, spent: float) -> None:
        now = self._clock.time()
        seconds = now - checkpoint.created / 1e6
        self._listeners.emit(
            TierDurable(LOCAL, checkpoint.step, checkpoint.seq, checkpoint.size, written, seconds, now, spent)
        )

    def damaged(self, checkpoint: Checkpoint, error: CheckpointCorruptError) -> None:
        """It is not what was saved, and stays as it is."""
        self.found(Finding.of(checkpoint), damage_of(error, self._clock))
        self._listeners.emit(Damaged(checkpoint.step, checkpoint.seq, str(error), error.kind, LOCAL))

    def found(self, finding: Finding, damage: Damage) -> None:
        """A copy here was found damaged."""
        self.tier.found(finding, damage)

    def failed(self, step: int | None, error: Exception) -> None:
        """This tier does not have that step, or cannot be read at all."""
        # What is on its way home may fail once nothing more is put there.
        self._is_over = self._is_over or (isinstance(error, RunError) and not isinstance(error, RunContended))
        self._listeners.emit(TierFailed(LOCAL, step, error, self._is_over))


def _is_of_ranks(error: Exception) -> bool:
    """Whether a save fails in whatever tier, since not all ranks take part in it as they should."""
    return isinstance(error, SaveError | RanksDiffer) and not isinstance(error, ShardFailed)


def _has(own: Writer, base: Base) -> bool:
    return all(pack.key in own.listed.uses for pack in base.contents.packs)
