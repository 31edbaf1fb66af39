"""Tally: how often one run was preempted, kept in its root, since each time is another process's."""

from __future__ import annotations

from contextlib import suppress

from asyncckpt.errors import CheckpointCorruptError, ObjectNotFound, StorageError
from asyncckpt.format import names
from asyncckpt.format.sealed import seal, unseal
from asyncckpt.storage.base import Storage


async def count_up(storage: Storage, *, resumed: bool) -> int:
    """Count one more, and return how many there are by now: 1 for a training that went on from nothing.

    Raises `StorageError`. A tally that is damaged begins anew.
    """
    count = (await _read(storage) if resumed else 0) + 1
    sealed = [seal({"count": count})]
    # The emergency save may be the run's first, and then sweeps what it takes for left behind: this put's temporary.
    with suppress(StorageError):
        await storage.put(names.PREEMPTIONS, sealed)
        return count
    await storage.put(names.PREEMPTIONS, sealed)
    return count


async def _read(storage: Storage) -> int:
    try:
        count = unseal(await storage.get(names.PREEMPTIONS), names.PREEMPTIONS).get("count")
    except (ObjectNotFound, CheckpointCorruptError):
        return 0
    return count if isinstance(count, int) else 0
