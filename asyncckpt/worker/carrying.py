"""Carrying: one job from its arena to a commit: on the local tier where there is one, else in the root.

What has landed on the local tier goes on from there, see `Homing`. A local tier that does not have a save costs it the
time of the try: it goes to the root from memory, after all that is on its way there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from asyncckpt.clock import Clock
from asyncckpt.errors import SaveFailed, TransientError
from asyncckpt.events import HOME, LOCAL
from asyncckpt.format.contents import Contents
from asyncckpt.format.names import DataDirectory, directory_of
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.worker.abandoning import Abandoning
from asyncckpt.worker.answers import Answers
from asyncckpt.worker.attempt import Attempt
from asyncckpt.worker.commitlog.keeping import Verdict
from asyncckpt.worker.commitlog.writer import Writer
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.describing import describe
from asyncckpt.worker.homing import Homing
from asyncckpt.worker.increment import next_base
from asyncckpt.worker.landed import find, landed
from asyncckpt.worker.local import LocalTier
from asyncckpt.worker.phases import Phases
from asyncckpt.worker.pipeline import Forms, Packing, Written
from asyncckpt.worker.ranks import Ranks
from asyncckpt.worker.reports import gather
from asyncckpt.worker.root import Root
from asyncckpt.worker.taking import Taking
from asyncckpt.worker.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Near:
    """The local tier, and the way home from there."""

    tier: LocalTier
    homing: Homing


@dataclass(frozen=True, slots=True)
class _Put:
    """Everything that a record in the root will name, durable there; `writer` is to commit it."""

    writer: Writer
    written: Written
    contents: Contents
    checkpoint: Checkpoint


class Carrier:
    """Carries out one job after the other."""

    def __init__(
        self,
        root: Root,
        near: Near | None,
        answers: Answers,
        ranks: Ranks,
        config: ServiceConfig,
        threads: Executor,
        clock: Clock,
        is_hasty: Callable[[], bool],
    ) -> None:
        self._root = root
        self._near = near
        self._answers = answers
        self._ranks = ranks
        self._config = config
        self._threads = threads
        self._clock = clock
        self._is_hasty = is_hasty
        self._forms = Forms()
        self._abandoning = Abandoning()
        self.abandon = self._abandoning.abandon
        """Of what is carried out now, see `Abandoning.abandon`."""
        self.until_over = self._abandoning.until_over

    async def carry_out(self, ticket: Ticket) -> None:
        """Save it, and answer for it, or have it taken on from the local tier; whoever calls is within `until_over`.

        When it is answered nothing that it went through is under way any more: whoever is told can let go of all of it.
        """
        attempt = Attempt(ticket, Phases(self._clock))
        async with AsyncExitStack() as held:
            try:
                saved = await self._saved(attempt, held)
            except Exception as error:
                await self._answers.failed(attempt, error)
                return
            if saved is not None:
                await self._root.follow_up(*saved)
        if attempt.landed and self._near is not None:
            self._near.homing.add(attempt)

    async def _saved(self, attempt: Attempt, held: AsyncExitStack) -> tuple[Writer, Verdict] | None:
        """What was committed in the root, by whom; None where it is answered for already, or has landed."""
        if self._near is None:
            await held.enter_async_context(self._root.lock)
            attempt.is_in_root = True
            writer, own = await self._root.take(), None
        else:
            writer = await self._led()
            own = await self._near.tier.open(attempt.ticket, writer, is_hasty=self._is_hasty())
        if attempt.ticket.repeated and self._was_done(attempt, writer, own):
            return None
        packing = await self._begin(attempt, writer, HOME if own is None else LOCAL)
        put = await self._abandoning.unless_abandoned(self._put(attempt, writer, own, packing, held))
        if put is None:
            return None
        attempt.recording = True
        verdict, record = await self._root.commit(put.writer, put.checkpoint)
        put.writer.base = next_base(put.writer.base, put.contents, put.written.turnover)
        self._answers.durable(attempt, record, put.written.nbytes, packing.rest.seconds)
        return put.writer, verdict

    async def _led(self) -> Writer:
        """Whose numbers a save on the local tier gets; raises as `Root.lead` does."""
        try:
            return await self._root.lead()
        except TransientError as error:
            raise TransientError(
                f"{error} (whose the run is only the root can tell: nothing is saved on the local tier before that is "
                "known)"
            ) from error

    async def _begin(self, attempt: Attempt, writer: Writer, tier: str) -> Packing:
        directory, ticket = await attempt.begin(writer, self._ranks, tier), attempt.ticket
        return Packing(
            ticket.job,
            ticket.view,
            ticket.watermark,
            self._root.storage,
            directory,
            self._threads,
            self._config.pace,
            Taking(ticket.watermark, ticket.job.layout.packs) if ticket.watermark.is_windowed else None,
            self._config.codec,
            self._config.incremental,
            self._forms,
        )

    async def _put(
        self, attempt: Attempt, writer: Writer, own: Writer | None, packing: Packing, held: AsyncExitStack
    ) -> _Put | None:
        """Put everything in the root, unless it lands on the local tier; up to its end the save can be given up."""
        job, watermark = attempt.ticket.job, attempt.ticket.watermark
        async with packing.digesting() as digested:
            if self._near is not None:
                prunes = not self._is_hasty()
                if own and await self._near.tier.land(attempt, writer, own, packing, digested, prunes=prunes):
                    return None
                writer, packing = await self._turn_to_root(attempt, self._near.homing, packing, held)
            written = await packing.put(digested, writer.base)
        attempt.phases.enter("stage")
        if not watermark.is_sealed:  # a thread is not asked for nothing
            await asyncio.get_running_loop().run_in_executor(self._threads, watermark.wait_sealed)
        attempt.phases.enter("report")
        storage, directory = self._root.storage, packing.directory
        contents = await gather(job, written.contents, directory, writer.nonce, storage, self._ranks)
        attempt.phases.enter("commit")
        checkpoint = await describe(job, writer, directory, contents, storage, self._config, self._threads)
        return _Put(writer, written, contents, checkpoint)

    async def _turn_to_root(
        self, attempt: Attempt, homing: Homing, packing: Packing, held: AsyncExitStack
    ) -> tuple[Writer, Packing]:
        """The root, in this save's turn, and where in it this save goes."""
        await homing.cleared(attempt.ticket.job)
        await held.enter_async_context(self._root.lock)
        writer = await self._root.take()
        are_others_there = attempt.tier == LOCAL and self._ranks.world > 1
        is_anew = attempt.is_uncertain or packing.directory.inc != writer.inc or packing.codec.key is not None
        if is_anew or are_others_there:
            # Two that differ never have the same name: what the local tier may have keeps the one that it had, and what
            # is encrypted anew always differs. And the other ranks, who wrote there, hear of this one by its name.
            packing = replace(packing, directory=await attempt.begin(writer, self._ranks, HOME))
        attempt.is_in_root = True
        return writer, packing

    # -- what another worker had ---------------------------------------------------------------------------

    def _was_done(self, attempt: Attempt, writer: Writer, own: Writer | None) -> bool:
        """Whether a worker that died had committed the job here or there; raises `SaveFailed` where it cannot be."""
        ticket = attempt.ticket
        if (record := landed(writer, ticket.job)) is not None:
            if self._near is not None and own is not None and (nearer := find(own, ticket.job)) is not None:
                self._near.tier.tell_landed(ticket, nearer)
            self._answers.durable(attempt, record, 0, 0.0)
            return True
        if self._near is None or own is None:
            if ticket.landed:
                raise SaveFailed(
                    f"step {ticket.job.step} is on the local tier, which is not to be had now: the next resume() with "
                    "it takes it to the root"
                )
            return False
        nearer = find(own, ticket.job) if ticket.landed else landed(own, ticket.job)
        if nearer is None and not ticket.landed:
            return False
        attempt.directory = _directory(nearer)
        attempt.land()
        if nearer is not None:
            self._near.tier.tell_landed(ticket, nearer)
        return True


def _directory(record: Record | None) -> DataDirectory | None:
    """Where the checkpoint of `record` lies."""
    checkpoint = None if record is None else record.checkpoint
    return None if checkpoint is None else directory_of(checkpoint.manifest.key)
