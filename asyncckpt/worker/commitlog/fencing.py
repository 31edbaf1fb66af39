"""Fencing: taking a run and committing where nothing can be created exclusively.

Every writer claims the run under a higher number than it has seen, and writes under names of its own. It looks for
higher claims after each record, and only then confirms it: so of two writers at most one confirms, and whoever claims
later finds what the earlier one had written. That rests on listings which show every put that has returned.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.commits import Fenced as Log
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.errors import AsyncCkptError, Fenced, ObjectNotFound, OutcomeUnknown, StorageError, TransientError
from asyncckpt.format import names
from asyncckpt.format.names import FencedName
from asyncckpt.format.record import Record, WriterId
from asyncckpt.format.runfile import RunFile
from asyncckpt.format.sealed import seal, sealed_digest, unseal
from asyncckpt.storage.base import Storage

ATTEMPTS = 8
"""How often a put of unknown outcome is made again: the name is the writer's own, and the bytes are the same."""

PATIENCE = 60.0
"""Seconds after which it is not: a store that is asked over a network has tried again for long by itself."""

_LONGEST_PAUSE = 1.0
"""Seconds before another claim, at most, where two writers have started at once."""

_JITTER = random.Random()  # noqa: S311 -- not the generator of all, from which training may draw


@dataclass(frozen=True, slots=True)
class Taken:
    """A run that was taken: the open record as it stands, what it lists, and what stood there before."""

    record: Record
    listing: Listing
    before: tuple[int, ...]


async def commit_fenced(catalog: Catalog, log: Log, record: Record) -> str:
    """Make `record` the head; see `asyncckpt.worker.commitlog.commit.commit`."""
    data, name = record.encode(), names.fenced_name(record.slot, record.writer.nonce)
    await _put(catalog.storage, name.record, data)
    try:
        await _check_claims(catalog, log, record.inc)
        await _put(catalog.storage, name.confirmation, b"")
    except Fenced as error:
        error.adopted = await _is_adopted(catalog, record)
        raise
    except AsyncCkptError as failure:
        raise OutcomeUnknown(f"record {record.slot} stands, but not whether it counts: {failure}") from failure
    return sealed_digest(data)


async def _is_adopted(catalog: Catalog, record: Record) -> bool:
    """Whether the new owner lists it by now; one that has only claimed the run may still."""
    try:
        head = await catalog.head()
    except AsyncCkptError:
        return False
    return head is not None and head.inc > record.inc and record.slot in head.live


async def take_fenced(
    catalog: Catalog,
    log: Log,
    run: RunFile,
    me: WriterId,
    after: int | None,
    on: Callable[[Record | None], None],
    open_record: Callable[[Record | None, int, int], Record],
    *,
    above: int = 0,
    inc: int | None = None,
) -> Taken | None:
    """Claim the run and open it; None where another writer claimed it at the same time.

    `after` and `on` are as in `writer.open_run`. The claim's number is higher than any that was seen here and than
    `above`; or it is `inc`, which another tier has given to this writer alone, and which it may claim again. Raises
    `Fenced` if the run was claimed meanwhile, or under a number that is not lower.
    """
    seen = await log.names()
    if not any(kind == "json" for _, kind in seen):
        await catalog.check_recorded()
    if after is not None:
        await _check_claims(catalog, log, after, but=me.nonce)
    on(await catalog.newest(await log.slots(), run))
    claim = FencedName(inc or 1 + max(above, *(name.inc for name, _ in seen), 0), 0, me.nonce)
    if inc is not None:
        await _check_claims(catalog, log, inc - 1, but=me.nonce)
    await _put(catalog.storage, claim.claim, seal({"writer": asdict(me)}))
    if any(kind == "claim" and name.inc >= claim.inc and name.writer != me.nonce for name, kind in await log.names()):
        await asyncio.sleep(_JITTER.uniform(0, _LONGEST_PAUSE))  # so that the two do not meet again
        return None
    own = me.nonce  # its records under this number, where it claims that again
    below = [
        (name.slot, kind)
        for name, kind in await log.names()
        if name != claim and (name.inc < claim.inc or name.writer == own)
    ]
    written = sorted(slot for slot, kind in below if kind == "json")
    try:
        # Confirmed or not: whoever wrote it may have looked before the claim was there, and confirm it any moment.
        head = await catalog.read(written[-1]) if written else None
        listing = await catalog.listing_of(head) if head else Listing(None)
    except ObjectNotFound:
        return None
    on(head)
    record = open_record(head, claim.inc * names.NUMBERS + (head.slot % names.NUMBERS if head else 0) + 1, claim.inc)
    digest = await commit_fenced(catalog, log, record)
    # Whoever claimed it before the confirmation has gone on from what was there: nobody may from what is listed here.
    await _check_claims(catalog, log, claim.inc)
    return Taken(replace(record, digest=digest), listing, tuple(sorted({slot for slot, _ in below})))


async def _check_claims(catalog: Catalog, log: Log, inc: int, but: str = "") -> None:
    """Raise `Fenced` if anyone claims the run under a higher number than `inc`."""
    higher = [name for name, kind in await log.names() if kind == "claim" and name.inc > inc and name.writer != but]
    if higher:
        newest = max(higher, key=lambda name: name.slot)
        raise fenced_by(catalog.storage.url, inc, newest.inc, await _claimant(catalog.storage, newest))


async def _claimant(storage: Storage, claim: FencedName) -> WriterId | None:
    """Who that is, as far as it can be told."""
    try:
        return WriterId(**unseal(await storage.get(claim.claim), claim.claim)["writer"])
    except (AsyncCkptError, KeyError, TypeError):
        return None


def fenced_by(url: str, inc: int, newer: int, writer: WriterId | None) -> Fenced:
    """The error that tells incarnation `inc` who took the run at `url`."""
    who = writer.shown if writer else "a process that left no word"
    return Fenced(
        f"{url} was taken by incarnation {newer} ({who}); "
        f"this one, {inc}, has stopped: end this process, or start it again to take the run back"
    )


async def _put(storage: Storage, key: str, data: bytes) -> None:
    """Store what nobody else ever writes. Raises `OutcomeUnknown` where it may be there."""
    unknown: StorageError | None = None
    until = time.monotonic() + PATIENCE
    for _ in range(ATTEMPTS):
        if unknown is not None and time.monotonic() > until:
            break
        try:
            await storage.put(key, [data], length=len(data))
            return
        except StorageError as error:
            if unknown is None and not isinstance(error, OutcomeUnknown | TransientError):
                raise
            unknown = error
    raise OutcomeUnknown(f"{storage.url}/{key}: could not find out whether it was stored: {unknown}") from unknown
