"""Service: the serial actor that turns jobs into checkpoints. One runs per checkpointer, on one event loop.

Jobs are carried out one after the other in the order of ``save``, so that commits, retention and deletion need
no further order of their own, and latest can never go back. The queue holds at most what the arena
generations allow; a job that has not left it can still be withdrawn for a newer one.

With a local tier that is where the actor ends: what it has committed there another one takes to the root (`Homing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError
from asyncckpt.events import HOME, LOCAL, Amended, Fallback, Listeners
from asyncckpt.fetching.unpacking import is_encrypted
from asyncckpt.format.contents import Contents
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.retention import PrunePlan
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import Bounded, bounded, bounded_disk
from asyncckpt.storage.daemons import Daemons
from asyncckpt.storage.live import bounded_live
from asyncckpt.worker.answers import Answers
from asyncckpt.worker.bringing import Bringing, Source
from asyncckpt.worker.carrying import Carrier, Near
from asyncckpt.worker.commitlog.aftermath import retained
from asyncckpt.worker.commitlog.keeping import Keeping, Verdict
from asyncckpt.worker.commitlog.ownership import Ownership
from asyncckpt.worker.commitlog.past import Past
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.homing import Homing
from asyncckpt.worker.increment import Base
from asyncckpt.worker.local import LocalTier
from asyncckpt.worker.mirroring import Mirroring
from asyncckpt.worker.ranks import Ranks
from asyncckpt.worker.root import Root
from asyncckpt.worker.ticket import Ticket
from asyncckpt.worker.tier import Tier


class SaveService:
    """Rank 0's side: opens the run, writes, gathers reports, commits, prunes."""

    def __init__(
        self, storage: Storage, config: ServiceConfig, listeners: Listeners, clock: Clock, ranks: Ranks
    ) -> None:
        self.catalog = Catalog(storage, config.monitor, only_encrypted=config.only_encrypted)
        self.reading = Catalog(bounded_live(storage), config.monitor, only_encrypted=config.only_encrypted)
        """The same for whoever restores from it, and waits for no disk that hangs."""
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
        # As many as are needed at once; `ThreadPoolExecutor` begins more, now and then, up to its most.
        self._threads = Daemons(4, "asyncckpt-worker")
        self._queue: deque[Ticket] = deque()
        self._guard = threading.Lock()
        self._arrived = asyncio.Event()
        self._actor = asyncio.Lock()
        self._closing = False
        self._orphaned = False
        self._is_emergency = False
        """Whether the newest save that was begun is one."""
        self._mirroring = None if config.mirror is None else self._mirrored(config.mirror)
        self._local = None if config.local is None else self._nearer(config.local)
        told, local = listeners, self._local
        self._root = Root(storage, self.ownership, self.keeping, self._mirroring, told, self._is_hasty)
        answers = Answers(self._root, told, clock, ranks)
        self._near = None if local is None else Near(local, Homing(local, self._root, answers, config.pace, told))
        self._carrier = Carrier(*(self._root, self._near, answers, ranks, config, self._threads, clock, self._is_hasty))

    def _mirrored(self, storage: Storage) -> Mirroring:
        told, config = self._listeners, self._config
        overwritten = self.ownership.overwritten
        tier = Tier("mirror", bounded_disk(storage), config.keep, config.monitor, told, self._clock, overwritten)
        return Mirroring(tier, self.catalog, self.keeping, config.pace, told, self._clock)

    def _nearer(self, storage: Storage) -> LocalTier:
        return LocalTier(
            *(bounded(storage), self.ownership, self.catalog, self._config, self._listeners, self._clock, self._ranks)
        )

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
            self._loop.call_soon_threadsafe(self.hurry)
        self._loop.call_soon_threadsafe(self._arrived.set)

    def hurry(self) -> None:
        """Leave what can be done later to the next start, and wait for no disk for long; on the loop."""
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
                with self._carrier.until_over(ticket.job.id):
                    async with self._actor:
                        if ticket.claim():
                            self._is_emergency = ticket.job.emergency
                            await self._carrier.carry_out(ticket)
            elif self._closing:
                await self._end()
                return

    async def _make_up(self) -> None:
        """What a service that crashed was about to mirror, is mirrored all the same."""
        if self._mirroring is not None and self.ownership.claim.inc is not None:
            async with self._root.lock:
                with contextlib.suppress(AsyncCkptError):  # the next save meets it too, and has somebody to tell
                    writer = await self._root.take()
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
        if self._near is not None:
            await self._near.homing.finished()
        async with self._actor, self._root.lock:
            await self.ownership.tell_root(self.keeping)
            await self.ownership.leave(tidy=not self._is_hasty())
            for tier in (self._local, self._mirroring):
                if tier is not None:
                    await tier.finish(tidy=not (self._is_hasty() or self.ownership.is_lost))
        self._threads.shutdown(wait=False)
        for storage in (self.ownership.storage, self.reading.storage):
            if isinstance(storage, Bounded) and storage.is_held:
                await storage.aclose()  # it says so, and leaves it: its threads are held
                return
        await self.storage.aclose()

    # -- the run -------------------------------------------------------------------------------------------

    async def resume(self) -> Listing:
        """Take the run to go on from one of its checkpoints; the view is that of the own open record.

        What only another tier has, and is newer, is brought home before.
        """
        async with self._actor, self._root.lock:
            view = await self.ownership.view()
            writer = self.ownership.writer
            if writer is None or not (sources := self._sources()):
                return view
            bringing = Bringing(sources, self._root, self._config.pace, self._listeners, self._clock)
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
        async with self._actor, self._root.lock:
            writer = await self.ownership.go_on(seq, named=named)
            # With a local tier it was read in one of two places, and a save shares what is sound in both.
            is_sound = verified is not None and not damaged and self._local is None
            writer.base = Base(verified) if verified is not None and is_sound else None
            if self._local is not None:
                self._local.share_nothing()
            self._listeners.emit(retained(writer))
            if verified is not None and self._config.codec.key is None and is_encrypted(verified):
                reason = f"step {writer.listing.find(f'{seq:08d}').step} is encrypted, what is saved from now on is not"
                self._listeners.emit(Fallback("encryption", f"{reason}: give SavePolicy(codec=) for that"))
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
        async with self._root.lock:
            await self.ownership.tell_root(self.keeping)

    async def settled(self) -> None:
        """Return once nothing is left to do for what was committed: retention has run, hints are written."""
        async with self._root.lock:
            await self.ownership.idle()
        async with self._actor:
            if self._local is not None:
                await self._local.idle()

    @contextmanager
    def hold(self, seq: int) -> Iterator[None]:
        """Keep retention of this process away from a checkpoint that is being read, in whatever tier."""
        with self.keeping.hold(seq), nullcontext() if self._local is None else self._local.hold(seq):
            yield

    async def prune(self, *, dry_run: bool) -> PrunePlan:
        """Apply the retention policy now, by a record of its own; with `dry_run` only say what that would do."""
        if dry_run:
            return await self._preview(await self.catalog.listing())
        async with self._root.lock:
            if self.ownership.writer is None:  # taking a run stops whoever holds it: not for nothing
                listing = await self.catalog.listing()
                self.ownership.check_resumed(listing.checkpoints)
                if not (planned := await self._preview(listing)).removed:
                    return planned
            writer = await self._root.take()
            await self.ownership.tell_root(self.keeping)
            planned, verdict = await self.keeping.judge_alone(writer)
            for part in verdict.parts():
                with self.ownership.recording(writer):
                    await writer.drop(part.removed, part.acknowledged)
                await self._root.follow_up(writer, part)
            if verdict.removed:
                # At once: who prunes wants the room. A reader that is cut off looks again, as after any removal.
                await self.ownership.pruner.committed(writer, (), ())
                await self.ownership.pruner.finished()
            return planned

    async def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Attach `metrics` to the newest checkpoint of `step`, by a record of its own; what is best is decided again.

        Raises `CheckpointNotFoundError` if none is listed.
        """
        async with self._root.lock:
            writer = await self._root.take()
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
            await self._root.follow_up(writer, Verdict())
        if self._local is not None:
            async with self._actor:
                await self._local.amend(writer, amended)

    async def _preview(self, listing: Listing) -> PrunePlan:
        writer = self.ownership.writer
        return await self.keeping.preview(listing, writer.parent if writer else None)

    # -- one save ------------------------------------------------------------------------------------------

    def _is_hasty(self) -> bool:
        """Whether what can be done later is left to the next start, or the next save."""
        with self._guard:
            is_awaited = any(ticket.job.emergency for ticket in self._queue)
        return self._orphaned or self._is_emergency or is_awaited

    def abandon(self, job: str, by_step: int) -> None:
        """Give up `job`, wherever it is, see `Abandoning.abandon`; on the loop."""
        self._carrier.abandon(job, by_step)
        if self._near is not None:
            self._near.homing.abandon(job, by_step)
