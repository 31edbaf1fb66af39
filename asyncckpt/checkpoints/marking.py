"""Marking: pins, tags and findings put on checkpoints from outside, also while a training saves into the run."""

from __future__ import annotations

import getpass
import socket

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing, Which, find
from asyncckpt.clock import Clock
from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError
from asyncckpt.format.findings import Damage
from asyncckpt.format.marks import Mark, check_tag, encode
from asyncckpt.format.record import Checkpoint


def author() -> str:
    """Who is at work, for people: ``name@host``."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container's user may have no name
        return f"somebody@{socket.gethostname()}"


def damage_of(error: CheckpointCorruptError, clock: Clock) -> Damage:
    """What was found out just now, as a finding tells it."""
    return damage(error.kind, str(error), clock)


def damage(kind: str, reason: str, clock: Clock) -> Damage:
    """The same, from what an error said."""
    return Damage(kind, reason, author(), int(clock.time() * 1e6))


async def mark(catalog: Catalog, which: Which, tag: str | None, clock: Clock) -> Checkpoint:
    """Pin the checkpoint that `which` names, or tag it, taking the tag from any other; returns the checkpoint.

    A training that holds the run spares it from its next record on. Raises `CheckpointNotFoundError` if there is none,
    also if retention was faster, `CheckpointCorruptError` if it may be one whose record is lost, and `ValueError` for
    what cannot be a tag.
    """
    chosen = find(await catalog.listing(), which, catalog.storage.url)
    new = Mark(chosen.seq, None if tag is None else check_tag(tag))
    await catalog.storage.put(new.key, [encode(author(), int(clock.time() * 1e6))])
    listing = await catalog.listing()
    if chosen.seq not in {c.seq for c in listing.checkpoints}:
        await catalog.storage.delete([new.key])
        raise CheckpointNotFoundError(f"retention removed the checkpoint of step {chosen.step} before it was marked")
    if tag is not None:  # after the new one is there: a crash leaves the tag on both, never on none
        await catalog.storage.delete([m.key for m in _tagged(listing, tag) if m != new])
    return chosen


async def unmark(catalog: Catalog, which: Which | None, tag: str | None) -> int:
    """Take a pin from `which`, or a tag from wherever it is; returns how many marks went."""
    listing = await catalog.listing()
    if tag is not None:
        found = _tagged(listing, tag)
    else:
        seq = find(listing, "latest" if which is None else which, catalog.storage.url).seq
        found = [m for m in listing.marks.get(seq, ()) if m.tag is None]
    await catalog.storage.delete([m.key for m in found])
    return len(found)


def _tagged(listing: Listing, tag: str) -> list[Mark]:
    return [m for marks in listing.marks.values() for m in marks if m.tag == tag]
