"""Prune: deleting what commits dropped, one commit late, so that readers of the head before are not cut off.

Removal itself is part of the commit (the record's live set shrinks). This here only reclaims space: it may be
late or fail without harm, and the next start's sweep finishes what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Iterable, Sequence

from asyncckpt.errors import StorageError
from asyncckpt.events import Deleted, Leftover, Listeners
from asyncckpt.format import names
from asyncckpt.format.record import Checkpoint
from asyncckpt.worker.commitlog.sweep import unreachable
from asyncckpt.worker.commitlog.writer import Writer


class Pruner:
    """Deletes in the background, after the commit that follows the one that dropped a checkpoint."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._dropped: list[Checkpoint] = []
        self._slots: list[int] = []
        self._running: asyncio.Task[None] | None = None

    async def committed(self, writer: Writer, dropped: Sequence[Checkpoint], slots: Iterable[int]) -> None:
        """A record of `writer` is durable that dropped these checkpoints and made the records in `slots` stale.

        What the commit before it dropped is deleted now, while the next save may already be under way.
        """
        await self.finished()
        due, due_slots = self._dropped, self._slots
        self._dropped, self._slots = list(dropped), list(slots)
        if due or due_slots:
            # As of this commit: a pack that `dropped` ones share has their turn, and so has what later commits drop.
            # Asked of what is due alone, which is all that is deleted: nobody shares a pack that its own checkpoint
            # does not name.
            later = _packs(dropped)
            named = frozenset(key for key in _packs(due) if key in later or key in writer.listed.uses)
            self._running = asyncio.create_task(self._delete(writer, due, named, due_slots))

    async def finished(self) -> None:
        """Wait for the deletion under way."""
        if self._running is not None:
            await over(self._running)
            self._running = None

    def hurry(self) -> None:
        """Give up the deletion under way: the next start's sweep will finish it."""
        if self._running is not None:
            self._running.cancel()

    async def _delete(
        self, writer: Writer, dropped: Sequence[Checkpoint], named: Container[str], slots: Iterable[int]
    ) -> None:
        storage, began = writer.catalog.storage, time.monotonic()
        try:
            keys = [key for key in await unreachable(storage, dropped, named) if not _may_be_needed(key, writer)]
            stale = await writer.catalog.commits.removable(s for s in slots if s not in writer.head.live)
            await storage.delete([*keys, *stale])
        except StorageError as error:
            self._listeners.emit(Leftover("deletion of dropped checkpoints", error))
            return
        packs = _packs(dropped)
        size = sum(packs.get(key, 0) for key in keys)
        self._listeners.emit(Deleted(len(keys) + len(stale), size, time.monotonic() - began))


async def over(task: asyncio.Task[None]) -> None:
    """Return once `task` has ended; raises what it raised, but that it was cancelled is an end too."""
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _packs(checkpoints: Iterable[Checkpoint]) -> dict[str, int]:
    """The packs that `checkpoints` name, and their lengths."""
    return {pack.key: pack.length for checkpoint in checkpoints for pack in checkpoint.packs}


def _may_be_needed(key: str, writer: Writer) -> bool:
    """Whether a listed checkpoint whose record is lost may share this pack: it is older than this writer."""
    owner = names.directory_of(key)
    return bool(writer.lost) and names.is_pack(key) and owner is not None and owner.inc < writer.inc
