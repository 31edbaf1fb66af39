"""Copies: checkpoints of one root in another, brought there by somebody who trains nothing.

The other root holds them under the same names, as a mirror does: a run of the same id, taken under the incarnation that
the first one has. So it can be the root of a training, or be copied to again, and what was copied half is gone on with.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.clock import Clock
from asyncckpt.errors import CheckpointCorruptError, Fenced
from asyncckpt.events import Listeners
from asyncckpt.format.record import Checkpoint
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.home import Home
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.tier import Tier

NAME = "copy"
"""What the other root is called in messages."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one checkpoint: the bytes that were put for it, or why it was not copied."""

    checkpoint: Checkpoint
    written: int | None = None
    removed: bool = False
    """By retention, before it was copied."""
    damage: CheckpointCorruptError | None = None
    """Of the source's; nothing is listed of it then."""


class Copies:
    """From `source` to `target`; `listeners` are told what is left over there."""

    def __init__(self, source: Catalog, target: Storage, listeners: Listeners, clock: Clock) -> None:
        self._source = source
        self._tier = Tier(NAME, target, None, None, listeners, clock, lambda writer: {})

    async def lacking(self, wanted: Collection[Checkpoint]) -> list[Checkpoint]:
        """Those of `wanted`, by rising number, that the target can get: what is newer than all that it lists.

        Raises `RunRefused` where that is of another run, and as `Catalog.listing` does.
        """
        await self._tier.look(self._source)
        newest = max((c.seq for c in (await self._tier.catalog.listing()).checkpoints), default=0)
        return sorted((c for c in wanted if c.seq > newest), key=lambda checkpoint: checkpoint.seq)

    async def copy(self, listing: Listing, checkpoints: Sequence[Checkpoint]) -> AsyncGenerator[Copied, None]:
        """Copy and list them one after the other, as `listing` of the source has them; every byte is checked.

        The target is closed afterwards. Raises as `Tier.take` does, but for what is about one checkpoint alone.
        """
        run, head = await self._source.run(), listing.head
        if run is None or head is None:
            return
        home = Home(run.id, head.inc, head.writer)
        try:
            for checkpoint in checkpoints:
                yield await self._copied(home, checkpoint)
            if checkpoints and head.latest is not None:
                await self._tier.show_latest(home, head.latest)
        except Fenced as error:
            raise await self._taken() from error
        finally:
            await self._tier.leave()

    async def _taken(self) -> Fenced:
        """Why nothing more can be listed there."""
        head, url = await self._tier.catalog.head(), self._tier.catalog.storage.url
        who = "somebody" if head is None else f"incarnation {head.inc} ({head.writer.shown})"
        return Fenced(
            f"{url} is in the hands of {who}: a training went on there, or took it over; what it holds stays as it is, "
            "so copy to another root"
        )

    async def _copied(self, home: Home, checkpoint: Checkpoint) -> Copied:
        try:
            return Copied(checkpoint, await self._tier.take(home, checkpoint, self._source, Pace()))
        except CheckpointCorruptError as error:
            is_there = await self._source.is_listed(checkpoint)
            return Copied(checkpoint, removed=not is_there, damage=error if is_there else None)
