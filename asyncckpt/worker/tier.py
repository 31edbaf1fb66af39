"""Tier: one more store that holds checkpoints of a run: a run of its own, whose checkpoints are copies of home's.

It has its own records, its own slots and its own retention, and is held by whoever holds home, under the same
incarnation. A checkpoint is listed in it only once everything that it names is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError, RunRefused, StorageError
from asyncckpt.events import Damaged, Deleted, Event, Leftover, Listeners, Pruned, Retained, Swept
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Checkpoint, Removal
from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.aftermath import follow_up, tell
from asyncckpt.worker.commitlog.founding import of_another_run
from asyncckpt.worker.commitlog.home import Home, Seen
from asyncckpt.worker.commitlog.keeping import Keeping, Verdict
from asyncckpt.worker.commitlog.ownership import Ownership
from asyncckpt.worker.commitlog.sweep import needed
from asyncckpt.worker.commitlog.writer import Writer
from asyncckpt.worker.copying import Copying
from asyncckpt.worker.pace import Pace

logger = logging.getLogger("asyncckpt")

LOOK = 5.0
"""Seconds after which a tier that does not answer is no reason to keep a start waiting."""


class InTier:
    """A listener that passes on what happens in `tier`, with its name."""

    def __init__(self, tier: str, listeners: Listeners) -> None:
        self._tier = tier
        self._listeners = listeners

    def on_event(self, event: Event) -> None:
        """Pass it on."""
        if isinstance(event, Damaged | Deleted | Leftover | Pruned | Retained | Swept):
            event = replace(event, tier=self._tier)
        self._listeners.emit(event)


class Tier:
    """The tier called `name` in `storage`; all calls but `look` and `hurry` come from one actor, one after the other.

    `overwritten` says which of a writer's checkpoints a new training replaces, and why.
    """

    def __init__(
        self,
        name: str,
        storage: Storage,
        policy: RetentionPolicy | None,
        monitor: Monitor | None,
        listeners: Listeners,
        clock: Clock,
        overwritten: Callable[[Writer], Mapping[int, str]],
    ) -> None:
        self.name = name
        self.catalog = Catalog(storage, monitor)
        self._listeners = Listeners([InTier(name, listeners)])
        self._ownership = Ownership(self.catalog, self._listeners, clock)
        self._keeping = Keeping(storage, policy, monitor, self._listeners)
        self._overwritten = overwritten
        self._brought: set[str] = set()
        """What was put there, or found there, and is in no record: what it was for may have been overtaken."""
        self.hurry = self._ownership.hurry

    async def look(self, home: Catalog) -> Seen:
        """Before home is taken: how far this tier has come, as far as it can be told now.

        Raises `RunRefused` where the two are not tiers of one run; one that does not answer is no reason not to start.
        """
        try:
            async with asyncio.timeout(LOOK):
                return await self._look(home)
        except RunRefused:
            raise
        except (AsyncCkptError, OSError, TimeoutError) as error:
            reason = str(error) or f"no answer within {LOOK:g} s"
            logger.warning("the %s could not be looked at: %s", self.name, reason)
            return Seen()

    async def _look(self, home: Catalog) -> Seen:
        theirs, ours = await self.catalog.run(), await home.run()
        head = None if theirs is None else await self.catalog.head()
        if theirs is None or head is None:
            return Seen()
        url = self.catalog.storage.url
        if ours is not None and theirs.id != ours.id:
            raise of_another_run(url, theirs.id, ours.id)
        if ours is None and (count := sum(1 for _ in head.live)):
            raise RunRefused(
                f"{home.storage.url} is empty, and its {self.name} {url} holds {count} checkpoint(s): if the root was "
                f"lost, go on in {url}, or copy that back; if this is a new training, give it a {self.name} of its own"
            )
        before = await home.head()
        return Seen(head.inc, head.next_seq, before is not None and (head.latest or 0) >= before.next_seq)

    async def take(self, home: Home, checkpoint: Checkpoint, source: Catalog, pace: Pace) -> int | None:
        """Copy a checkpoint of `home` from `source`, and list it; returns the bytes that were put for it.

        None where it is listed, or a newer one: none may come after that. Raises `Fenced` or `RunRefused` where the
        tier is not to be had (any more), `CheckpointCorruptError` where the source is not sound, and `StorageError`.
        """
        writer = await self.open(home)
        if self._is_passed(writer, checkpoint):
            return None
        await self._ownership.idle()  # what is about to be deleted must not be found there
        copying = Copying(source, self.catalog.storage, pace, self._brought)
        await copying.copy(checkpoint, writer.listed.uses)
        await self.follow_up(writer, await self.commit(writer, checkpoint))
        if not self._ownership.is_lost:  # by now somebody else may list what this writer does not
            await clean_up(writer, self._brought, self._listeners)
        return copying.written

    async def open(self, home: Home) -> Writer:
        """The tier in the hands of whoever has taken `home`; raises as `take` does."""
        self._ownership.follow(home)
        return await self._ownership.take()

    async def commit(self, writer: Writer, checkpoint: Checkpoint, *, prunes: bool = True) -> Verdict:
        """List a checkpoint, everything of which is there; what this tier's retention drops for it, if it `prunes`."""
        verdict = Verdict()
        if prunes:
            await self._ownership.tell_root(self._keeping)
            verdict = await self._keeping.judge(writer, checkpoint, self._overwritten(writer))
        with self._ownership.committing(writer):
            await writer.commit(checkpoint, verdict.removed, verdict.acknowledged, self._brought)
        return verdict

    async def follow_up(self, writer: Writer, verdict: Verdict) -> None:
        """What can be done later, after a commit."""
        tell(verdict, self._listeners)
        if not self._ownership.is_lost:
            await follow_up(writer, verdict, self._ownership, self._keeping, self._listeners)

    def spare(self, seqs: Iterable[int]) -> None:
        """From now on retention leaves these alone whatever the policy says, and no others but what is being read."""
        self._keeping.spared = frozenset(seqs)

    def hold(self, seq: int) -> AbstractContextManager[None]:
        """Keep retention away from a checkpoint that is being read."""
        return self._keeping.hold(seq)

    async def needed(self) -> set[int]:
        """What is being read in this process, pinned or tagged; raises `StorageError` where that cannot be told."""
        return await self._keeping.needed()

    async def give_up(self, writer: Writer, checkpoints: Sequence[Checkpoint], reason: str) -> None:
        """Drop these by a record of its own, and delete at once what they alone held."""
        removed = tuple(Removal(c.seq, c.step, reason, "policy") for c in checkpoints)
        with self._ownership.recording(writer):
            await writer.drop(removed)
        tell(Verdict(removed), self._listeners)
        await self._ownership.pruner.committed(writer, writer.dropped, writer.stale)
        await self._ownership.pruner.committed(writer, (), ())
        await self._ownership.pruner.finished()

    def found(self, finding: Finding, damage: Damage) -> None:
        """A copy here was found damaged: this tier's next record says so."""
        self._keeping.found[finding] = damage

    def _is_passed(self, writer: Writer, checkpoint: Checkpoint) -> bool:
        newest = max(writer.listed, key=lambda listed: listed.seq, default=None)
        if newest is None or newest.seq < checkpoint.seq:
            return False
        if newest.seq == checkpoint.seq and newest.manifest != checkpoint.manifest:
            raise RunRefused(
                f"{self.catalog.storage.url} holds another checkpoint under the number {checkpoint.seq}: neither is "
                f"touched; move that {self.name} away, or give the training another"
            )
        return True

    async def amend(self, home: Home, checkpoint: Checkpoint) -> None:
        """List `checkpoint` as it is given now, if it is listed: metrics may come late. Raises as `take` does."""
        writer = await self.open(home)
        if checkpoint.seq in writer.listed and writer.listed.record(checkpoint.seq).checkpoint != checkpoint:
            with self._ownership.recording(writer):
                await writer.amend(checkpoint)
            await follow_up(writer, Verdict(), self._ownership, self._keeping, self._listeners)

    async def show_latest(self, home: Home, seq: int) -> None:
        """Make that one the latest, if it is listed, where training at home has gone back to it. Raises as `take`."""
        writer = await self.open(home)
        if seq in writer.listed and writer.head.latest != seq:
            with self._ownership.recording(writer):
                await writer.roll_back(seq)

    async def idle(self) -> None:
        """Wait for sweep and deletion under way."""
        await self._ownership.idle()

    async def leave(self, *, tidy: bool = True) -> None:
        """A closing record, and late deletion where `tidy`."""
        await self._ownership.leave(tidy=tidy)


async def clean_up(writer: Writer, brought: set[str], listeners: Listeners) -> None:
    """Delete what was brought for checkpoints that were overtaken on their way, and never will be listed."""
    packs, folders = needed(writer.listed)
    garbage = [key for key in brought if key not in packs and key.rsplit("/", 1)[0] not in folders]
    brought.clear()
    try:
        await writer.catalog.storage.delete(sorted(garbage))
    except StorageError as error:
        listeners.emit(Leftover("copies of checkpoints that were overtaken", error))
