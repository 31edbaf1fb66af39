"""Bringing: what another tier has and home has not got is brought there, before a training goes on from home.

A root may lack what was committed beside it: saves that did not get there before the training was killed, or all since
the day to which the root was set back. Of everything that is newer than all that home has, in whatever tier, the newest
that is sound is copied there, byte-checked, and listed; what is older than home's latest belongs to a branch that was
abandoned, and stays where it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from asyncckpt.checkpoints.marking import damage_of
from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError
from asyncckpt.events import HOME, Damaged, Listeners, TierDurable
from asyncckpt.fetching.progress import Progress
from asyncckpt.format.findings import Finding
from asyncckpt.format.record import Checkpoint
from asyncckpt.worker.commitlog.home import above, number_of
from asyncckpt.worker.commitlog.writer import Writer
from asyncckpt.worker.copying import Copying, SourceFailed
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.root import Root
from asyncckpt.worker.tier import LOOK, Tier

logger = logging.getLogger("asyncckpt")


class Source(Protocol):
    """A tier that may have what home lacks."""

    @property
    def tier(self) -> Tier: ...

    def failed(self, step: int | None, error: Exception) -> None:
        """Reading `step`, or what there is, did not work."""
        ...


_Found: TypeAlias = tuple[Checkpoint, Source]


class Bringing:
    """From `sources`, the nearest first, to `root`, whose lock whoever calls holds."""

    def __init__(self, sources: Sequence[Source], root: Root, pace: Pace, listeners: Listeners, clock: Clock) -> None:
        self._sources = sources
        self._root = root
        self._pace = pace
        self._listeners = listeners
        self._clock = clock

    async def bring(self, home: Writer) -> bool:
        """Bring the newest sound checkpoint that is above home's latest, if there is one; returns whether.

        One that lacks parts of the state comes after that where it is newer still: a resume that asks for such ones
        takes it, and no other. Raises the `StorageError` of home, and `CheckpointCorruptError` where home has none, and
        none there is sound.
        """
        newer = [(checkpoint, source) for source in self._sources for checkpoint in await self._newer(source, home)]
        newer.sort(key=lambda found: number_of(found[0]), reverse=True)  # stable: of the same, the nearest comes first
        whole = await self._first_sound((f for f in newer if not f[0].partial), home)
        later = (f for f in newer if f[0].partial and (whole is None or f[0].seq > whole.seq))
        partial = await self._first_sound(later, home)
        if newer and whole is partial is None and not (len(home.listed) or home.lost):
            places = ", ".join(sorted({source.tier.catalog.storage.url for _, source in newer}))
            raise CheckpointCorruptError(
                f"no checkpoint is in {self._root.storage.url}, and none of the {len(newer)} in {places} is sound "
                "(see the log): nothing was restored; start over in another root, with other tiers"
            )
        return (whole or partial) is not None

    async def _newer(self, source: Source, home: Writer) -> list[Checkpoint]:
        """What is there and above all that home has."""
        try:
            async with asyncio.timeout(LOOK):
                listing = await source.tier.catalog.listing()
        except (AsyncCkptError, OSError) as error:
            source.failed(None, error)
            return []
        for lost in listing.lost.values():
            self._listeners.emit(Damaged(None, None, str(lost), "record", source.tier.name))
        return above(home.head, home.listed, listing.checkpoints)

    async def _first_sound(self, candidates: Iterable[_Found], home: Writer) -> Checkpoint | None:
        """The first of `candidates` that could be brought."""
        for checkpoint, source in candidates:
            if await self._brought(checkpoint, source, home):
                return checkpoint
        return None

    async def _brought(self, checkpoint: Checkpoint, source: Source, home: Writer) -> bool:
        step, began = checkpoint.step, self._clock.monotonic()
        logger.warning("step %d is in the %s and not in the root: it is brought there first", step, source.tier.name)
        await self._root.ownership.idle()  # what is about to be deleted must not be found there
        progress = Progress(step, self._listeners, self._clock, brought_from=source.tier.name)
        copying = Copying(source.tier.catalog, self._root.storage, self._pace, progress=progress)
        try:
            await copying.copy(checkpoint, home.listed.uses)
        except CheckpointCorruptError as error:
            source.tier.found(Finding.of(checkpoint), damage_of(error, self._clock))
            self._listeners.emit(Damaged(step, checkpoint.seq, str(error), error.kind, source.tier.name))
            return False
        except SourceFailed as error:
            source.failed(step, error)
            return False
        with self._root.ownership.committing(home):
            await home.commit(checkpoint, (), (), copying.brought)
        await self._root.ownership.pruner.committed(home, home.dropped, home.stale)
        now = self._clock.time()
        seconds, spent = now - checkpoint.created / 1e6, self._clock.monotonic() - began
        self._listeners.emit(
            TierDurable(HOME, step, checkpoint.seq, checkpoint.size, copying.written, seconds, now, spent)
        )
        return True
