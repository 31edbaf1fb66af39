"""Service: the serial actor that turns jobs into checkpoints. One runs per checkpointer, on one event loop.

Jobs are carried out one after the other in the order of ``save``, so that commits, retention and deletion need
no further order of their own, and latest can never go back. The queue holds at most what the arena
generations allow; a job that has not left it can still be withdrawn for a newer one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from asyncckpt.catalog import Catalog
from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError, SaveSkipped, SaveSuperseded, StorageError
from asyncckpt.events import HOME, LOCAL, Amended, Durable, Failed, Fallback, Leftover, Listeners, Retried
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.manifest import Contents
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.listing import Listing
from asyncckpt.retention import Monitor, PrunePlan, RetentionPolicy
from asyncckpt.storage.base import Retrying, Storage
from asyncckpt.worker.abandoning import Abandoning
from asyncckpt.worker.aftermath import follow_up, retained, tell
from asyncckpt.worker.attempt import Attempt
from asyncckpt.worker.bringing import Bringing, Source
from asyncckpt.worker.describing import describe
from asyncckpt.worker.increment import Base
from asyncckpt.worker.job import Committed, Rejected
from asyncckpt.worker.keeping import Keeping, Verdict
from asyncckpt.worker.landed import landed
from asyncckpt.worker.local import LocalTier
from asyncckpt.worker.mirroring import Mirroring
from asyncckpt.worker.ownership import Ownership
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.past import Past
from asyncckpt.worker.phases import Phases
from asyncckpt.worker.pipeline import Packing, Written
from asyncckpt.worker.ranks import Ranks, attempt_key, verdict_key
from asyncckpt.worker.reports import gather
from asyncckpt.worker.taking import Taking
from asyncckpt.worker.ticket import Ticket
from asyncckpt.worker.tier import Tier
from asyncckpt.worker.writer import Writer


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What a service needs to know beside its jobs."""

    keep: RetentionPolicy | None = None
    monitor: Monitor | None = None
    overwrite: bool = False
    drained: Callable[[], Awaitable[None]] | None = None
    """Returns once nobody is left on this host whose commit the run should not be taken from."""
    pace: Pace = field(default_factory=Pace)
    """Of digesting and writing."""
    mirror: Storage | None = None
    """Where home's checkpoints are copied to."""
    local: Storage | None = None
    """Where every save is committed before it is at home."""

    @property
    def beside(self) -> dict[str, Storage]:
        """The tiers beside home, by their names, nearest first."""
        found = {LOCAL: self.local, "mirror": self.mirror}
        return {name: storage for name, storage in found.items() if storage is not None}


class SaveService:
    """Rank 0's side: opens the run, writes, gathers reports, commits, prunes."""

    def __init__(
        self, storage: Storage, config: ServiceConfig, listeners: Listeners, clock: Clock, ranks: Ranks
    ) -> None:
        self.catalog = Catalog(storage, config.monitor)
        self.storage = storage
        self.ownership = Ownership(
            self.catalog,
            listeners,
            clock,
            overwrite=config.overwrite,
            drained=self._look_around,
            is_supplied=bool(config.beside),
        )
        self.keeping = Keeping(storage, config.keep, config.monitor, listeners)
        self._config = config
        self._listeners = listeners
        self._clock = clock
        self._ranks = ranks
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="asyncckpt-worker")
        self._queue: deque[Ticket] = deque()
        self._guard = threading.Lock()
        self._arrived = asyncio.Event()
        self._actor = asyncio.Lock()
        self._closing = False
        self._orphaned = False
        self._is_emergency = False
        """Whether the newest save that was begun is one."""
        self._abandoning = Abandoning()
        self.abandon = self._abandoning.abandon
        self._told: set[str] = set()
        self._retries: Counter[str] = Counter()
        self._mirroring = None if config.mirror is None else self._mirrored(config.mirror)
        self._local = None if config.local is None else self._nearer(config.local)
        self._former: Writer | None = None
        """The run as it was taken last, whatever became of it since."""

    def _mirrored(self, storage: Storage) -> Mirroring:
        told, config = self._listeners, self._config
        overwritten = self.ownership.overwritten
        tier = Tier("mirror", storage, config.keep, config.monitor, told, self._clock, overwritten)
        return Mirroring(tier, self.catalog, self.keeping, config.pace, told, self._clock)

    def _nearer(self, storage: Storage) -> LocalTier:
        return LocalTier(storage, self.ownership, self.catalog, self._config.monitor, self._listeners, self._clock)

    async def _look_around(self) -> None:
        """Before the run is taken."""
        if self._config.drained is not None:
            await self._config.drained()
        for tier in (self._mirroring, self._local):
            if tier is not None:
                self.ownership.seen = self.ownership.seen.and_(await tier.look())

    @property
    def past(self) -> Past:
        """What a successor has to know."""
        return Past(self.ownership.claim, self.keeping.reading, self.keeping.found)

    def inherit(self, past: Past) -> None:
        """Go on where a service that crashed was: its run is taken anew, unless somebody else has it by now."""
        self.ownership.inherit(past.claim)
        self.keeping.inherit(past)

    # -- the queue -----------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Queue a job; from any thread, and from then on it can be withdrawn."""
        with self._guard:
            self._queue.append(ticket)
        if ticket.job.emergency:
            self._loop.call_soon_threadsafe(self._hurry)
        self._loop.call_soon_threadsafe(self._arrived.set)

    def _hurry(self) -> None:
        self.ownership.hurry()
        for tier in (self._mirroring, self._local):
            if tier is not None:
                tier.hurry()

    def withdraw(self, job: str) -> bool:
        """Take a job back if it has not been begun; from any thread."""
        with self._guard:
            for ticket in self._queue:
                if ticket.job.id == job:
                    self._queue.remove(ticket)
                    return True
        return False

    async def run(self) -> None:
        """Carry out jobs until `finish`, then leave the run in order."""
        await self._make_up()
        while True:
            await self._arrived.wait()
            with self._guard:
                ticket = self._queue.popleft() if self._queue else None
                if ticket is None:
                    self._arrived.clear()
            if ticket is not None:
                with self._abandoning.until_over(ticket.job.id):
                    async with self._actor:
                        if ticket.claim():
                            await self._carry_out(ticket)
            elif self._closing:
                await self._end()
                return

    async def _make_up(self) -> None:
        """What a service that crashed was about to mirror, is mirrored all the same."""
        if self._mirroring is not None and self.ownership.claim.inc is not None:
            async with self._actor:
                with contextlib.suppress(AsyncCkptError):  # the next save meets it too, and has somebody to tell
                    writer = await self.ownership.take()
                    self._mirroring.want(writer, writer.head.latest or 0)

    def finish(self) -> None:
        """Take no more jobs, and end once the queue is empty; on the loop."""
        self._closing = True
        self._arrived.set()

    def orphan(self) -> None:
        """The training's process is gone: commit what is complete, and do nothing else; on the loop.

        What may go only the next training can say, which may want to resume from it.
        """
        self._orphaned = True
        self.finish()

    async def _end(self) -> None:
        async with self._actor:
            await self.ownership.tell_root(self.keeping)
            await self.ownership.leave(tidy=not self._is_hasty)
            for tier in (self._local, self._mirroring):
                if tier is not None:
                    await tier.finish(tidy=not (self._is_hasty or self.ownership.is_lost))
        self._threads.shutdown(wait=False)
        await self.storage.aclose()

    # -- the run -------------------------------------------------------------------------------------------

    async def resume(self) -> Listing:
        """Take the run to go on from one of its checkpoints; the view is that of the own open record.

        What only another tier has, and is newer, is brought home before.
        """
        async with self._actor:
            view = await self.ownership.view()
            writer = self.ownership.writer
            if writer is None or not (sources := self._sources()):
                return view
            bringing = Bringing(sources, self.ownership, self._config.pace, self._listeners, self._clock)
            if await bringing.bring(writer):
                return replace(writer.listing, marks=view.marks)
            if self._mirroring is not None and self._mirroring in sources:
                self._mirroring.passed_over()
            return view

    def _sources(self) -> list[Source]:
        """The tiers that may have what home lacks."""
        found: list[Source] = [] if self._local is None else [self._local]
        if self._mirroring is not None and self._mirroring.is_ahead:
            found.append(self._mirroring)
        return found

    async def go_on(self, seq: int, damaged: Collection[int], *, named: bool, verified: Contents | None = None) -> None:
        """Training goes on from `seq`. One that the user named becomes the latest, by a record that says so.

        `verified` is what was read of it and found sound: the next save may share that. After a fallback past
        `damaged` ones it is full, since damage seldom comes alone.
        """
        async with self._actor:
            writer = await self.ownership.go_on(seq, named=named)
            # With a local tier it was read in one of two places, and a save shares what is sound in both.
            is_sound = verified is not None and not damaged and self._local is None
            writer.base = Base(verified) if verified is not None and is_sound else None
            self._listeners.emit(retained(writer))
            if self._mirroring is not None:
                if named:  # what tiers have dropped since then must never be shared anew
                    writer.base = None
                self._mirroring.want(writer, seq)

    async def damaged(self, tier: str, finding: Finding, damage: Damage) -> None:
        """A checkpoint was found damaged in `tier`: its retention counts it no more, and its root is told of it.

        The root is told while the run is held, and else once it is: whoever only reads writes nothing.
        """
        if tier == HOME:
            self.keeping.found[finding] = damage
        elif tier == LOCAL and self._local is not None:
            self._local.found(finding, damage)
        elif self._mirroring is not None:
            self._mirroring.found(finding, damage)
        async with self._actor:
            await self.ownership.tell_root(self.keeping)

    async def settled(self) -> None:
        """Return once nothing is left to do for what was committed: retention has run, hints are written."""
        async with self._actor:
            await self.ownership.idle()
            if self._local is not None:
                await self._local.idle()

    def hold(self, seq: int) -> AbstractContextManager[None]:
        """Keep retention of this process away from a checkpoint that is being read."""
        return self.keeping.hold(seq)

    async def prune(self, *, dry_run: bool) -> PrunePlan:
        """Apply the retention policy now, by a record of its own; with `dry_run` only say what that would do."""
        if dry_run:
            return await self._preview(await self.catalog.listing())
        async with self._actor:
            if self.ownership.writer is None:  # taking a run stops whoever holds it: not for nothing
                listing = await self.catalog.listing()
                self.ownership.check_resumed(listing.checkpoints)
                if not (planned := await self._preview(listing)).removed:
                    return planned
            writer = await self.ownership.take()
            await self.ownership.tell_root(self.keeping)
            planned, verdict = await self.keeping.judge_alone(writer)
            for part in verdict.parts():
                with self.ownership.recording(writer):
                    await writer.drop(part.removed, part.acknowledged)
                await self._follow_up(writer, part)
            if verdict.removed:
                # At once: who prunes wants the room. A reader that is cut off looks again, as after any removal.
                await self.ownership.pruner.committed(writer, (), ())
                await self.ownership.pruner.finished()
            return planned

    async def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Attach `metrics` to the newest checkpoint of `step`, by a record of its own; what is best is decided again.

        Raises `CheckpointNotFoundError` if none is listed.
        """
        async with self._actor:
            writer = await self.ownership.take()
            known = writer.listing.find(step)
            amended = replace(
                known, metrics={**known.metrics, **metrics}, monitor=known.monitor or self._config.monitor
            )
            if amended == known:
                return
            with self.ownership.committing(writer):
                await writer.amend(amended)
            self._listeners.emit(Amended(step, amended.seq, dict(amended.metrics)))
            if self._mirroring is not None:
                self._mirroring.amended(writer, amended)
            if self._local is not None:
                await self._local.amend(writer, amended)
            await self._follow_up(writer, Verdict())

    async def _preview(self, listing: Listing) -> PrunePlan:
        writer = self.ownership.writer
        return await self.keeping.preview(listing, writer.parent if writer else None)

    # -- one save ------------------------------------------------------------------------------------------

    @property
    def _is_hasty(self) -> bool:
        """Whether what can be done later is left to the next start, or the next save."""
        with self._guard:
            is_awaited = any(ticket.job.emergency for ticket in self._queue)
        return self._orphaned or self._is_emergency or is_awaited

    async def _carry_out(self, ticket: Ticket) -> None:
        """Write, commit and answer for one job."""
        attempt = Attempt(ticket, Phases(self._clock))
        self._is_emergency = ticket.job.emergency
        error = await self._attempt(attempt)
        if error is not None:
            await self._reject(attempt, error)

    async def _attempt(self, attempt: Attempt) -> Exception | None:
        """Packs durable, reports, manifest durable, then the record; returns why not.

        By then nothing that it went through is under way any more: whoever is told can let go of all of it.
        """
        ticket = attempt.ticket
        try:
            writer = await self._take(attempt)
            own = None if self._local is None else await self._local.open(ticket, writer)
            if ticket.repeated and (record := landed(writer, ticket.job)) is not None:
                if self._local is not None:
                    self._local.tell_again(ticket, own, record)
                await self._answer(attempt, record, 0, 0.0)
                return None
            packing = await self._begin(attempt, writer)
            written, contents, checkpoint = await self._abandoning.unless_abandoned(
                self._write(attempt, writer, own, packing)
            )
            attempt.recording = True
            verdict, record = await self._commit(writer, checkpoint)
            writer.base = _next_base(writer.base, contents, written.turnover)
        except Exception as error:
            return error
        await self._answer(attempt, record, written.nbytes, packing.rest.seconds)
        await self._follow_up(writer, verdict)
        return None

    async def _take(self, attempt: Attempt) -> Writer:
        """The run; where its store is away, what can be saved on the local tier is, before that is raised."""
        try:
            self._former = await self.ownership.take()
        except StorageError:
            if self._local is not None and self._former is not None:
                await self._land_alone(self._local, attempt, self._former)
            raise
        return self._former

    async def _begin(self, attempt: Attempt, writer: Writer) -> Packing:
        directory, ticket = await attempt.begin(writer, self._ranks), attempt.ticket
        return Packing(
            ticket.job,
            ticket.view,
            ticket.watermark,
            self.storage,
            directory,
            self._threads,
            self._config.pace,
            Taking(ticket.watermark, ticket.job.layout.packs) if ticket.watermark.is_windowed else None,
        )

    async def _land_alone(self, local: LocalTier, attempt: Attempt, writer: Writer) -> None:
        """Save on the local tier, under the numbers of `writer`, whose home is out of reach."""
        own = await local.open(attempt.ticket, writer)
        if own is None:
            return
        packing = await self._begin(attempt, writer)

        async def land() -> None:
            async with packing.digesting() as digested:
                await local.land(attempt, writer, own, packing, digested, prunes=not self._is_hasty)

        await self._abandoning.unless_abandoned(land())

    async def _write(
        self, attempt: Attempt, writer: Writer, own: Writer | None, packing: Packing
    ) -> tuple[Written, Contents, Checkpoint]:
        """Everything that the record will name, durable; up to its end the save can be given up.

        On the local tier, which is `own`, it is committed before.
        """
        job, watermark, directory = attempt.ticket.job, attempt.ticket.watermark, packing.directory
        async with packing.digesting() as digested:
            base = writer.base
            if self._local is not None and own is not None:
                base = await self._local.land(attempt, writer, own, packing, digested, prunes=not self._is_hasty)
            written = await packing.put(digested, base)
        attempt.phases.enter("stage")
        await asyncio.get_running_loop().run_in_executor(self._threads, watermark.wait_sealed)
        attempt.phases.enter("report")
        contents = await gather(job, written.contents, directory, writer.nonce, self.storage, self._ranks)
        attempt.phases.enter("commit")
        checkpoint = await describe(job, writer, directory, contents, self.storage, self._config.monitor, self._threads)
        return written, contents, checkpoint

    async def _commit(self, writer: Writer, checkpoint: Checkpoint) -> tuple[Verdict, Record]:
        verdict = await self._judge(writer, checkpoint)
        with self.ownership.committing(writer):
            await writer.commit(checkpoint, verdict.removed, verdict.acknowledged)
        return verdict, writer.head

    async def _judge(self, writer: Writer, checkpoint: Checkpoint) -> Verdict:
        if self._is_hasty:
            return await self.keeping.judge_in_haste(writer, checkpoint)
        await self.ownership.tell_root(self.keeping)
        return await self.keeping.judge(writer, checkpoint, self.ownership.overwritten(writer))

    async def _answer(self, attempt: Attempt, record: Record, written: int, rested: float) -> None:
        job, checkpoint = attempt.ticket.job, record.checkpoint
        if checkpoint is None:
            return
        seconds = self._clock.time() - job.created / 1e6
        self._listeners.emit(
            Durable(
                job.step,
                checkpoint.seq,
                checkpoint.size,
                seconds,
                self._clock.time(),
                dict(checkpoint.metrics),
                written,
                attempt.phases.end(),
                rested,
                checkpoint.partial,
            )
        )
        # Told before the handle ends: who has waited for it finds the save in the metrics.
        attempt.ticket.reply(Committed(record))
        if self._ranks.world > 1:
            self._ranks.tell(verdict_key(job.ordinal), {"record": record.encode().decode("ascii")})

    async def _follow_up(self, writer: Writer, verdict: Verdict) -> None:
        """What can be done later: nothing here can harm the commit."""
        tell(verdict, self._listeners)
        self._tell_of_store()
        if self.ownership.is_lost or self._is_hasty:
            return
        if self._local is not None:
            await self._local.passed(writer)
        # Not the head's own checkpoint: that may be an older one, whose metrics came late.
        if self._mirroring is not None and (newest := max((c.seq for c in writer.listed), default=None)) is not None:
            self._mirroring.want(writer, newest)
        await follow_up(writer, verdict, self.ownership, self.keeping, self._listeners)

    def _tell_of_store(self) -> None:
        if isinstance(self.storage, Retrying):
            for reason, count in self.storage.retries.items():
                if count > self._retries[reason]:
                    self._listeners.emit(Retried(reason, count - self._retries[reason]))
                    self._retries[reason] = count
        for feature, reason in self.storage.fallbacks.items():
            if feature not in self._told:
                self._told.add(feature)
                self._listeners.emit(Fallback(feature, reason))

    async def _reject(self, attempt: Attempt, error: Exception) -> None:
        ticket = attempt.ticket
        ticket.watermark.leave()
        self._tell_of_store()
        garbage = None if attempt.may_be_recorded(error) else attempt.directory
        if garbage is not None and attempt.landed and self._local is not None:
            self._local.leave_behind(garbage)
        elif garbage is not None:
            await self._discard(garbage)
        said: dict[str, str | bool] = {"error": f"{type(error).__name__}: {error}", "discarded": garbage is not None}
        if isinstance(error, SaveSkipped | SaveSuperseded):  # the training gave it up, which is no failure
            said["skipped"] = str(error)
        else:
            self._listeners.emit(Failed(ticket.job.step, attempt.phases.now, error))
        key = (verdict_key if attempt.announced else attempt_key)(ticket.job.ordinal)
        self._ranks.tell(key, said)
        ticket.reply(Rejected(attempt.phases.now, error))

    async def _discard(self, directory: DataDirectory) -> None:
        """Delete a failed attempt: its folder's name was never and will never be in a record."""
        try:
            keys = [found.key async for found in self.storage.list(directory.key + "/")]
            await self.storage.delete(keys)
        except StorageError as error:
            self._listeners.emit(Leftover(f"the failed attempt in {directory.key}", error))


def _next_base(base: Base | None, contents: Contents, turnover: float | None) -> Base:
    return Base(contents) if base is None or turnover is None else base.followed_by(contents, turnover)
