"""Aftermath: what follows a commit in whatever tier: hints, events and late deletion. Nothing here can harm it."""

from __future__ import annotations

from asyncckpt.errors import AsyncCkptError, StorageError
from asyncckpt.events import Leftover, Listeners, Pruned, Retained
from asyncckpt.format.names import DataDirectory
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.hints import show
from asyncckpt.worker.commitlog.keeping import Keeping, Verdict
from asyncckpt.worker.commitlog.ownership import Ownership
from asyncckpt.worker.commitlog.writer import Writer


def retained(writer: Writer) -> Retained:
    """What `writer` lists now."""
    return Retained(len(writer.listed), writer.listed.uses.nbytes)


def tell(verdict: Verdict, listeners: Listeners) -> None:
    """What a record has dropped."""
    for removal in verdict.removed:
        listeners.emit(Pruned(removal.step, removal.seq, removal.reason, removal.rule))


async def follow_up(
    writer: Writer, verdict: Verdict, ownership: Ownership, keeping: Keeping, listeners: Listeners
) -> None:
    """After a record of `writer`, which dropped what `verdict` says, as that was told."""
    listeners.emit(retained(writer))
    # To the sweep a hint that is being written would look like one that an earlier writer left unfinished.
    await ownership.sweep_planned()
    await keeping.answer(verdict)
    try:
        await show(writer.catalog.storage, writer)
    except (AsyncCkptError, OSError) as error:
        listeners.emit(Leftover("the hints latest and best", error))
    await ownership.pruner.committed(writer, writer.dropped, writer.stale)


async def discard(directory: DataDirectory, storage: Storage, listeners: Listeners) -> None:
    """Delete an attempt that failed: its folder's name was never and will never be in a record."""
    try:
        await storage.delete([found.key async for found in storage.list(directory.key + "/")])
    except StorageError as error:
        listeners.emit(Leftover(f"the failed attempt in {directory.key}", error))
