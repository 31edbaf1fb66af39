"""Member: the side of every rank but 0. It opens nothing and commits nothing: it writes where it is told to.

Its shards are small (RNG, loader, extras), so every save is carried out as soon as rank 0 has announced it,
several at a time: a save that rank 0 superseded must not wait behind one that it is still writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.clock import Clock
from asyncckpt.errors import RunRefused, SaveFailed, SaveSkipped, StorageError
from asyncckpt.events import HOME, LOCAL, Durable, Failed, Leftover, Listeners
from asyncckpt.format import record as records
from asyncckpt.format.contents import Contents
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.names import DataDirectory
from asyncckpt.retention import PrunePlan
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import Bounded, bounded
from asyncckpt.storage.live import bounded_live
from asyncckpt.worker.announcements import Announcements, Said, directory_in
from asyncckpt.worker.commitlog.keeping import Keeping
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.job import Committed, Declined, Landed, Missed, Rejected, SaveJob, Started
from asyncckpt.worker.phases import Phases
from asyncckpt.worker.pipeline import Packing, Written
from asyncckpt.worker.ranks import Ranks, at_work, held_key, save_task, trouble_key
from asyncckpt.worker.reports import write_report
from asyncckpt.worker.ticket import Ticket


class MemberService:
    """Writes this rank's shard of each announced attempt, and passes rank 0's verdict on."""

    def __init__(
        self, storage: Storage, config: ServiceConfig, listeners: Listeners, clock: Clock, ranks: Ranks
    ) -> None:
        self.storage = storage
        self.catalog = Catalog(storage, config.monitor, only_encrypted=config.only_encrypted)
        self.reading = Catalog(bounded_live(storage), config.monitor, only_encrypted=config.only_encrypted)
        """The same for whoever restores from it, and waits for no disk that hangs."""
        self._listeners = listeners
        self._keeping = Keeping(storage, config.keep, config.monitor, listeners)
        self._clock = clock
        self._ranks = ranks
        self._pace = config.pace
        self._codec = config.codec
        self._local = None if config.local is None else bounded(config.local)
        self._beside = replace(config, local=self._local).beside
        """Rank 0 keeps them in order; here they are read, and the local one is written to."""
        self._loop = asyncio.get_running_loop()
        # A save that is being written waits for its watermark in two of them.
        self._threads = ThreadPoolExecutor(12, thread_name_prefix="asyncckpt-member")
        self._announcements = Announcements(self.catalog, ranks, self._threads, self._local)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_held = False
        """Whether rank 0 was told that the local disk hangs here."""
        self._closing = asyncio.Event()

    def submit(self, ticket: Ticket) -> None:
        """Begin a job; from any thread."""
        self._loop.call_soon_threadsafe(self._begin, ticket)

    def _begin(self, ticket: Ticket) -> None:
        if not ticket.claim():
            return  # taken back on its way
        if self._local is not None:  # at once: what is under way may hold up the one that there is no time for
            self._local.is_hurried = ticket.job.emergency
            self._tell_held(self._local)
        task = asyncio.create_task(self._carry_out(ticket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell_held(self, local: Bounded) -> None:
        """While it hangs here nothing can be complete there, and rank 0 need not write its own part."""
        if local.is_held != self._is_held:
            self._is_held = local.is_held
            self._ranks.tell(held_key(self._ranks.rank), {"held": self._is_held})

    def finish(self) -> None:
        """Take no more jobs; on the loop."""
        self._closing.set()

    def orphan(self) -> None:
        """The training's process is gone: do what is complete, as far as rank 0's worker goes on; on the loop."""
        self.finish()

    def withdraw(self, job: str) -> bool:
        """Only rank 0 decides what is superseded."""
        return False

    def abandon(self, job: str, by_step: int) -> None:
        """Only rank 0 decides what is given up."""

    def hurry(self) -> None:
        """Nobody here waits long for the local disk any more; on the loop."""
        if self._local is not None:
            self._local.is_hurried = True

    async def resume(self) -> Listing:
        """Never: a second writer would fence the first."""
        raise RunRefused(f"rank {self._ranks.rank} cannot open the run: only rank 0 does")

    async def go_on(self, seq: int, damaged: Collection[int], *, named: bool, verified: Contents | None = None) -> None:
        """Rank 0 keeps that in mind."""

    async def damaged(self, tier: str, finding: Finding, damage: Damage) -> None:
        """Known here, and told with this rank's next part of a save: then the run is held by this training."""
        if tier == HOME:
            self._keeping.found[finding] = damage

    async def settled(self) -> None:
        """At once: what a rank but 0 has left to do ends with the save's handle."""

    def hold(self, seq: int) -> AbstractContextManager[None]:
        """Retention is rank 0's; it waits for every rank before training goes on."""
        return nullcontext()

    async def prune(self, *, dry_run: bool) -> PrunePlan:
        """Say what rank 0 would drop; only rank 0 does."""
        return await self._keeping.preview(await self.catalog.listing())

    async def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Rank 0 does."""

    async def run(self) -> None:
        """Serve until `finish`, then carry what was begun to its end."""
        await self._closing.wait()
        while self._tasks:
            await asyncio.gather(*self._tasks)
        self._threads.shutdown(wait=False)
        await self.storage.aclose()
        for storage in self._beside.values():
            await storage.aclose()

    async def _carry_out(self, ticket: Ticket) -> None:
        phases = Phases(self._clock)
        try:
            await self._take_part(ticket, phases)
        except Exception as error:
            self._reject(ticket, phases.now, error)

    async def _take_part(self, ticket: Ticket, phases: Phases) -> None:
        job, written, is_again = ticket.job, 0, False
        said: Said | None = await self._announcements.attempt(ticket)
        while said is not None and ("seq" in said or "declined" in said):
            if "declined" in said:
                ticket.watermark.leave()
                ticket.reply(Declined(said["declined"]["by_step"]))
                return
            directory = self._announced(said, job)
            ticket.reply(Started(directory.seq))
            if is_again and ticket.watermark.is_windowed:
                raise SaveFailed(f"step {job.step} went through the staging window once, and is asked for again")
            written += await self._carry(ticket, directory, said, phases)
            is_again = True
            phases.enter("commit")
            # A newer attempt, where the worker process that made this one died, or the local tier did not have it.
            said = await self._announcements.outcome(job, directory, lands=said["tier"] == LOCAL and not ticket.landed)
            if said is not None and "landed" in said:
                ticket.reply(Landed(records.decode(said["landed"].encode("ascii"), "rank 0's word")))
                ticket = ticket.without_memory()
                said = await self._announcements.outcome(job, directory)
            if said is not None and said.get("discarded"):
                await self._discard(directory, job)
        if said is not None:
            self._durable(ticket, said, written, phases)
            await self._keeping.tell_root()

    async def _carry(self, ticket: Ticket, directory: DataDirectory, said: Said, phases: Phases) -> int:
        """Write this rank's shard where it was said, unless the local tier has it; returns its bytes."""
        lands = said["tier"] == LOCAL
        if ticket.landed:
            if not lands:
                raise SaveFailed(f"step {ticket.job.step} is on the local tier, which rank 0 does not have any more")
            return 0
        storage = self._beside[LOCAL] if lands else self.storage
        packing = Packing(
            *(ticket.job, ticket.view, ticket.watermark, storage, directory, self._threads, self._pace),
            codec=self._codec,
        )
        phases.enter("write")
        # Not while it waits: rank 0 would wait for this rank, and this one for rank 0, as long as both are at work.
        with at_work(self._ranks, save_task(ticket.job.ordinal)):
            if lands:
                return await self._land(ticket, packing, said["writer"], phases)
            return await self._report(packing, await packing.write(), said["writer"], phases)

    async def _land(self, ticket: Ticket, packing: Packing, writer: str, phases: Phases) -> int:
        """Write it on the local tier; where that fails, rank 0 hears of it, and says where it is to go instead."""
        async with packing.digesting() as digested:
            try:
                return await self._report(packing, await packing.put(digested), writer, phases)
            except Exception as error:
                await asyncio.gather(digested, return_exceptions=True)
                if ticket.watermark.error is not None or ticket.watermark.is_windowed:
                    raise  # there is no snapshot, here or anywhere
                if self._local is not None:
                    self._tell_held(self._local)  # first: who hears of the trouble asks for that
                trouble = {"error": f"{type(error).__name__}: {error}", "seq": packing.directory.seq}
                self._ranks.tell(trouble_key(ticket.job.ordinal, self._ranks.rank), trouble)
                ticket.reply(Missed(error))
                return 0

    async def _report(self, packing: Packing, written: Written, writer: str, phases: Phases) -> int:
        """Report what was written; returns its bytes."""
        phases.enter("stage")
        await asyncio.get_running_loop().run_in_executor(self._threads, packing.watermark.wait_sealed)
        phases.enter("report")
        await write_report(packing.job, written.contents, packing.directory, writer, packing.storage)
        return written.nbytes

    def _announced(self, said: Said, job: SaveJob) -> DataDirectory:
        """The folder of the attempt; raises `SaveFailed` if it is one at another save."""
        if said["step"] != job.step:
            raise SaveFailed(
                f"save number {job.ordinal} is of step {job.step} here and of step {said['step']} on rank 0: call "
                "step() and save() on every rank, for the same steps in the same order"
            )
        return directory_in(said)

    async def _discard(self, directory: DataDirectory, job: SaveJob) -> None:
        """Delete what this rank may have written after rank 0 had emptied the folder."""
        suffix = self._codec.suffix
        packs = [directory.pack(job.rank, job.world, number, suffix) for number in range(len(job.layout.packs))]
        try:
            await self.storage.delete([*packs, directory.report(job.rank, job.world)])
        except StorageError as error:
            self._listeners.emit(Leftover(f"the failed attempt in {directory.key}", error))

    def _durable(self, ticket: Ticket, verdict: Said, written: int, phases: Phases) -> None:
        _check(verdict)
        record = records.decode(verdict["record"].encode("ascii"), "rank 0's verdict")
        if (checkpoint := record.checkpoint) is not None:
            now = self._clock.time()
            seconds = now - ticket.job.created / 1e6
            self._listeners.emit(
                Durable(
                    *(checkpoint.step, checkpoint.seq, checkpoint.size, seconds, now, dict(checkpoint.metrics)),
                    *(written, phases.end(), 0.0, (), checkpoint.epoch, checkpoint.message),
                )
            )
        # Told before the handle ends: who has waited for it finds the save in the metrics.
        ticket.reply(Committed(record))

    def _reject(self, ticket: Ticket, phase: str, error: Exception) -> None:
        ticket.watermark.leave()
        if not isinstance(error, SaveSkipped):
            said = {"error": f"{type(error).__name__}: {error}"}
            self._ranks.tell(trouble_key(ticket.job.ordinal, self._ranks.rank), said)
            self._listeners.emit(Failed(ticket.job.step, phase, error))
        ticket.reply(Rejected(phase, error))  # last: who has waited for it finds the failure in the metrics


def _check(said: Said) -> None:
    if "skipped" in said:
        raise SaveSkipped(f"rank 0: {said['skipped']}")
    if "error" in said:
        raise SaveFailed(f"rank 0: {said['error']}")
