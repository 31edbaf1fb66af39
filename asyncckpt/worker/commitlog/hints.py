"""Hints: ``latest`` and ``best``, small objects for people and scripts, overwritten after each commit.

Nothing in this package trusts them: they may be stale or missing, or the files of somebody else, which stay as they
are. On disks that have symbolic links, ``checkpoints/latest`` and ``checkpoints/best`` lead to the folders as well.
"""

from __future__ import annotations

from asyncckpt.errors import ObjectNotFound, StorageError
from asyncckpt.format import names
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.format.sealed import seal
from asyncckpt.storage.base import Linking, Storage
from asyncckpt.worker.commitlog.writer import Writer

_BEGINNING = b'{"folder":"data/'
"""Of every hint, also of one that was damaged or is of a newer version."""


async def show(storage: Storage, writer: Writer) -> None:
    """Point the hints at the newest and the best checkpoint of `writer`'s head.

    Raises `StorageError` if one cannot be written, and for the name of one that somebody else's file has.
    """
    best, taken = writer.listed.contest.best(), []
    # Not the head's own checkpoint: that may be an older one, whose metrics came late.
    seq = writer.head.latest
    latest = writer.listed.record(seq).checkpoint if seq is not None and seq in writer.listed else None
    for name, checkpoint in ((names.LATEST, latest), (names.BEST, best)):
        if checkpoint is not None:
            if name in writer.hints or await _is_free(storage, name):
                writer.hints.add(name)
                await storage.put(name, [_hint(writer.listed.record(checkpoint.seq), checkpoint)])
            else:
                taken.append(name)
            if isinstance(storage, Linking):
                await storage.link(names.link(name), checkpoint.folder)
    if taken:
        raise StorageError(
            f"{storage.url}: {' and '.join(taken)} is a file that asyncckpt did not write, and stays as it is: rename "
            "it, and the hint of that name comes back"
        )


def _hint(record: Record, checkpoint: Checkpoint) -> bytes:
    return seal({"slot": record.slot, "seq": checkpoint.seq, "step": checkpoint.step, "folder": checkpoint.folder})


async def _is_free(storage: Storage, name: str) -> bool:
    """Whether nothing has this name but perhaps a hint."""
    try:
        return bytes(await storage.get(name)).startswith(_BEGINNING)
    except ObjectNotFound:
        return True
