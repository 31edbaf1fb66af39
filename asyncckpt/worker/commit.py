"""Commit: the one place where a record is created, and where it is decided whether that happened.

A checkpoint exists from the moment its record stands in its slot and no newer incarnation had taken the run.
Everything before that is garbage with a name that says whose it is; everything after it may fail without harm.
"""

from __future__ import annotations

from collections.abc import Sequence

from asyncckpt.catalog import Catalog
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
from asyncckpt.storage.base import Storage

ATTEMPTS = 8
"""How often an unknown outcome is read and the same bytes are created again."""


async def create(storage: Storage, key: str, data: bytes) -> bool:
    """Create `key` with exactly these bytes: True if they stand there now, False if others do.

    A lost reply is resolved by reading, never by assuming: exists with own bytes is success. Raises
    `OutcomeUnknown` when reading did not settle it either.
    """
    last: BaseException | None = None
    for _ in range(ATTEMPTS):
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


async def commit(catalog: Catalog, record: Record) -> None:
    """Make `record` the head; returns once that is durable and no newer incarnation stands above it.

    Raises `Fenced` if the run was taken: then the save is durable only if the new owner's head lists it, which
    the exception's ``adopted`` says. Never tries the next slot: that would take the run back. Raises
    `OutcomeUnknown` if the record may stand; after any other error it does not.
    """
    if not await create(catalog.storage, names.record_key(record.slot), record.encode()):
        raise await fence(catalog, record)
    try:
        above = await catalog.slots(above=record.slot)
        error = await fence(catalog, record, above) if above else None
    except AsyncCkptError as failure:
        raise OutcomeUnknown(f"record {record.slot} stands, but not whether it counts: {failure}") from failure
    if error is not None:
        raise error


async def fence(catalog: Catalog, record: Record, above: Sequence[int] = ()) -> Fenced:
    """The error that tells who took the run, and whether they list `record`."""
    head = await catalog.head()
    error = Fenced("another writer has taken this run")
    if head is not None:
        error = Fenced(
            f"{catalog.storage.url} was taken by incarnation {head.inc} (process {head.writer.pid} on "
            f"{head.writer.host}); this one, {record.inc}, has stopped: end this process, or start it again "
            "to take the run back"
        )
    error.adopted = bool(above) and head is not None and record.slot in head.live
    return error
