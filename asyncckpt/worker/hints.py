"""Hints: ``latest`` and ``best``, small objects for people and scripts, overwritten after each commit.

Nothing in this package trusts them: they may be stale or missing. On disks that have symbolic links,
``checkpoints/latest`` and ``checkpoints/best`` lead to the folders as well.
"""

from __future__ import annotations

from asyncckpt.format import names
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.format.sealed import seal
from asyncckpt.storage.base import Linking, Storage
from asyncckpt.worker.writer import Writer


async def show(storage: Storage, writer: Writer) -> None:
    """Point the hints at the newest and the best checkpoint of `writer`'s head."""
    best = writer.listed.contest.best()
    for name, checkpoint in ((names.LATEST, writer.head.checkpoint), (names.BEST, best)):
        if checkpoint is not None and checkpoint.seq in writer.listed:
            await _show(storage, name, writer.listed.record(checkpoint.seq), checkpoint)


async def _show(storage: Storage, name: str, record: Record, checkpoint: Checkpoint) -> None:
    folder = checkpoint.folder
    data = seal({"slot": record.slot, "seq": checkpoint.seq, "step": checkpoint.step, "folder": folder})
    await storage.put(name, [data])
    if isinstance(storage, Linking):
        await storage.link(f"checkpoints/{name}", folder)
