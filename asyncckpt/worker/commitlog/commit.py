"""Commit: the one place where a record is created, and where it is decided whether that happened.

A checkpoint exists from the moment its record stands in its slot and no newer incarnation had taken the run.
Everything before that is garbage with a name that says whose it is; everything after it may fail without harm.
"""

from __future__ import annotations

import time

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.commits import Fenced as Log
from asyncckpt.errors import (
    AsyncCkptError,
    Fenced,
    ObjectExists,
    OutcomeUnknown,
    StorageError,
    TransientError,
)
from asyncckpt.format import names
from asyncckpt.format.record import Record
from asyncckpt.format.sealed import sealed_digest
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.fencing import commit_fenced, fenced_by

ATTEMPTS = 8
"""How often an unknown outcome is read and the same bytes are created again."""

PATIENCE = 60.0
"""Seconds after which it is not: a store that is asked over a network has tried again for long by itself."""


async def create(storage: Storage, key: str, data: bytes) -> bool:
    """Create `key` with exactly these bytes: True if they stand there now, False if others do.

    A lost reply is resolved by reading, never by assuming: exists with own bytes is success. Raises
    `OutcomeUnknown` when reading did not settle it either.
    """
    last: BaseException | None = None
    until = time.monotonic() + PATIENCE
    for _ in range(ATTEMPTS):
        if last is not None and time.monotonic() > until:
            break
        try:
            await storage.put(key, [data], mode="create")
            return True
        except StorageError as error:
            # Once an attempt may have been applied, no later refusal says that nothing stands there.
            if last is None and not isinstance(error, ObjectExists | OutcomeUnknown | TransientError):
                raise
            last = error
        settled = await _holds(storage, key, data)
        if settled is not None:
            return settled
    raise OutcomeUnknown(f"{storage.url}/{key}: could not find out whether it was created: {last}") from last


async def _holds(storage: Storage, key: str, data: bytes) -> bool | None:
    """Whether `key` holds exactly `data`; None if it holds nothing or cannot be read now."""
    try:
        return bytes(await storage.get(key)) == data
    except StorageError:
        return None


async def commit(catalog: Catalog, record: Record) -> str:
    """Make `record` the head; returns its digest once that is durable and no newer incarnation stands above it.

    Raises `Fenced` if the run was taken: then the save is durable only if the new owner's head lists it, which
    the exception's ``adopted`` says. Never tries the next slot: that would take the run back. Raises
    `OutcomeUnknown` if the record may stand, and if who stands in its way cannot be told: then the run has to be
    opened anew. After any other error the record does not stand.
    """
    if isinstance(catalog.commits, Log):
        return await commit_fenced(catalog, catalog.commits, record)
    data = record.encode()
    stands = await create(catalog.storage, names.record_key(record.slot), data)
    try:
        if stands and not await catalog.slots(above=record.slot):
            return sealed_digest(data)
        head = await catalog.head()
    except AsyncCkptError as failure:
        if not stands:
            raise
        raise OutcomeUnknown(f"record {record.slot} stands, but not whether it counts: {failure}") from failure
    if head is None or head.slot < record.slot or head == record:
        # Torn runs only: a slot that another opener has claimed or a crash has torn says nothing about who owns it.
        raise OutcomeUnknown(f"{catalog.storage.url}: a record at or above slot {record.slot} is not complete")
    error = fence(catalog.storage.url, record.inc, head)
    error.adopted = stands and record.slot in head.live
    raise error


def fence(url: str, inc: int, head: Record) -> Fenced:
    """The error that tells incarnation `inc` who took the run at `url`."""
    return fenced_by(url, inc, head.inc, head.writer)
