"""Bringing: what another tier has and home has not got is brought there, before a training goes on from home.

A root may lack what was committed beside it: saves that did not get there before the training was killed, or all since
the day to which the root was set back. Of everything that is newer than all that home has, in whatever tier, the newest
that is sound is copied there, byte-checked, and listed; what is older than home's latest belongs to a branch that was
abandoned, and stays where it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError, StorageError
from asyncckpt.events import HOME, Damaged, Listeners, TierDurable
from asyncckpt.format.findings import Finding
from asyncckpt.format.record import Checkpoint
from asyncckpt.marking import damage_of
from asyncckpt.reading import verify
from asyncckpt.worker.copying import Copying
from asyncckpt.worker.home import number_of
from asyncckpt.worker.ownership import Ownership
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.tier import LOOK, Tier
from asyncckpt.worker.writer import Writer

logger = logging.getLogger("asyncckpt")


class Source(Protocol):
    """A tier that may have what home lacks."""

    @property
    def tier(self) -> Tier: ...

    def failed(self, step: int | None, error: Exception) -> None:
        """Reading `step`, or what there is, did not work."""
        ...


class Bringing:
    """Brings home, which `ownership` holds, what one of `sources` has, the nearest first; all calls from one actor."""

    def __init__(
        self, sources: Sequence[Source], ownership: Ownership, pace: Pace, listeners: Listeners, clock: Clock
    ) -> None:
        self._sources = sources
        self._ownership = ownership
        self._pace = pace
        self._listeners = listeners
        self._clock = clock

    async def bring(self, home: Writer) -> bool:
        """Bring the newest sound checkpoint that is above home's latest, if there is one; returns whether.

        Raises the `StorageError` of home, and `CheckpointCorruptError` where home has none, and none there is sound.
        """
        newer = [(checkpoint, source) for source in self._sources for checkpoint in await self._newer(source, home)]
        newer.sort(key=lambda found: number_of(found[0]), reverse=True)  # stable: of the same, the nearest comes first
        for checkpoint, source in newer:
            if await self._brought(checkpoint, source, home):
                return True
        if newer and not (len(home.listed) or home.lost):
            places = ", ".join(sorted({source.tier.catalog.storage.url for _, source in newer}))
            raise CheckpointCorruptError(
                f"no checkpoint is in {home.catalog.storage.url}, and none of the {len(newer)} in {places} is sound "
                "(see the log): nothing was restored; start over in another root, with other tiers"
            )
        return False

    async def _newer(self, source: Source, home: Writer) -> list[Checkpoint]:
        """What is there and above all that home has."""
        try:
            async with asyncio.timeout(LOOK):
                listing = await source.tier.catalog.listing()
        except (AsyncCkptError, OSError) as error:
            source.failed(None, error)
            return []
        name = source.tier.name
        for lost in listing.lost.values():
            self._listeners.emit(Damaged(None, None, str(lost), "record", name))
        return [c for c in listing.checkpoints if not c.partial and is_above(c, home)]

    async def _brought(self, checkpoint: Checkpoint, source: Source, home: Writer) -> bool:
        step, began = checkpoint.step, self._clock.monotonic()
        logger.warning("step %d is in the %s and not in the root: it is brought there first", step, source.tier.name)
        await self._ownership.idle()  # what is about to be deleted must not be found there
        copying = Copying(source.tier.catalog, home.catalog.storage, self._pace)
        try:
            await copying.copy(checkpoint, home.listed.uses)
        except CheckpointCorruptError as error:
            self._damaged(checkpoint, source, error)
            return False
        except StorageError:
            if await self._can_be_read(checkpoint, source):
                raise
            return False
        with self._ownership.committing(home):
            await home.commit(checkpoint, (), (), copying.brought)
        await self._ownership.pruner.committed(home, home.dropped, home.stale)
        now = self._clock.time()
        seconds, spent = now - checkpoint.created / 1e6, self._clock.monotonic() - began
        self._listeners.emit(
            TierDurable(HOME, step, checkpoint.seq, checkpoint.size, copying.written, seconds, now, spent)
        )
        return True

    async def _can_be_read(self, checkpoint: Checkpoint, source: Source) -> bool:
        """Whether it is not that tier that failed."""
        try:
            await verify(source.tier.catalog, checkpoint)
        except CheckpointCorruptError as error:
            self._damaged(checkpoint, source, error)
        except (AsyncCkptError, OSError) as error:
            source.failed(checkpoint.step, error)
        else:
            return True
        return False

    def _damaged(self, checkpoint: Checkpoint, source: Source, error: CheckpointCorruptError) -> None:
        name = source.tier.name
        source.tier.found(Finding.of(checkpoint), damage_of(error, self._clock))
        self._listeners.emit(Damaged(checkpoint.step, checkpoint.seq, str(error), error.kind, name))


def is_above(checkpoint: Checkpoint, home: Writer) -> bool:
    """Whether home may get it still: only what is newer than all that home has, or an abandoned branch came back."""
    number = number_of(checkpoint)
    return number > max(_numbers(home)) and checkpoint.seq > max((c.seq for c in home.listed), default=0)


def _numbers(home: Writer) -> Iterator[tuple[int, int]]:
    yield home.head.latest_inc or 0, home.head.latest or 0
    yield from map(number_of, home.listed)
