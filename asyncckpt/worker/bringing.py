"""Bringing: at a start, to the root what only the local tier has.

Nobody could bring it there before the training ended. It is taken only where it is newer than all that the root has, so
that a branch that was abandoned does not come back, and only where every byte of it is sound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError
from asyncckpt.events import HOME, LOCAL, Damaged, Listeners, TierDurable
from asyncckpt.format.record import Checkpoint
from asyncckpt.worker.copying import Copying, SourceFailed
from asyncckpt.worker.home import above, number_of
from asyncckpt.worker.local import LocalTier
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.root import Root
from asyncckpt.worker.tier import LOOK
from asyncckpt.worker.writer import Writer

logger = logging.getLogger("asyncckpt")


class Bringing:
    """From `local` to `root`, whose lock whoever calls holds."""

    def __init__(self, local: LocalTier, root: Root, pace: Pace, listeners: Listeners, clock: Clock) -> None:
        self._local = local
        self._root = root
        self._pace = pace
        self._listeners = listeners
        self._clock = clock

    async def bring(self, home: Writer) -> bool:
        """Bring the newest sound checkpoint that is above home's latest, if there is one; returns whether.

        One that lacks parts of the state comes after that where it is newer still: a resume that asks for such ones
        takes it, and no other. Raises the `StorageError` of home, and `CheckpointCorruptError` where home has none, and
        none here is sound.
        """
        newer = await self._newer(home)
        whole = await self._first_sound([c for c in newer if not c.partial], home)
        partial = await self._first_sound([c for c in newer if c.partial and (not whole or c.seq > whole.seq)], home)
        if newer and whole is partial is None and not (len(home.listed) or home.lost):
            raise CheckpointCorruptError(
                f"no checkpoint is in {self._root.storage.url}, and none of the {len(newer)} in "
                f"{self._local.catalog.storage.url} is sound (see the log): nothing was restored; start over in "
                "another root, with another local tier"
            )
        return (whole or partial) is not None

    async def _newer(self, home: Writer) -> Sequence[Checkpoint]:
        """What is there and above all that home has, newest first."""
        try:
            async with asyncio.timeout(LOOK):
                listing = await self._local.catalog.listing()
        except (AsyncCkptError, OSError) as error:
            self._local.failed(None, error)
            return ()
        for lost in listing.lost.values():
            logger.error("a checkpoint of the local tier is damaged and is left as it is: %s", lost)
            self._listeners.emit(Damaged(None, None, str(lost), "record", LOCAL))
        return sorted(above(home.head, home.listed, listing.checkpoints), key=number_of, reverse=True)

    async def _first_sound(self, candidates: Sequence[Checkpoint], home: Writer) -> Checkpoint | None:
        """The first of `candidates` that could be brought."""
        for checkpoint in candidates:
            if await self._brought(checkpoint, home):
                return checkpoint
        return None

    async def _brought(self, checkpoint: Checkpoint, home: Writer) -> bool:
        step, began = checkpoint.step, self._clock.monotonic()
        logger.warning("step %d is on the local tier and not in the root: it is brought there first", step)
        await self._root.ownership.idle()  # what is about to be deleted must not be found there
        copying = Copying(self._local.catalog, self._root.storage, self._pace)
        try:
            await copying.copy(checkpoint, home.listed.uses)
        except CheckpointCorruptError as error:
            self._local.damaged(checkpoint, error)
            return False
        except SourceFailed as error:
            self._local.failed(step, error)
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
