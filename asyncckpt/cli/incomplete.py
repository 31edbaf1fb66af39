"""Incomplete: saves that have begun to write and have not come to a commit, or not yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.format import names
from asyncckpt.format.names import DataDirectory
from asyncckpt.worker.commitlog.offline import may_be_held
from asyncckpt.worker.commitlog.sweep import needed


@dataclass(slots=True)
class Incomplete:
    """What lies in the folder of one save; `may_go_on` says whether the save may still be under way."""

    directory: DataDirectory
    may_go_on: bool
    lengths: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of everything in it."""
        return sum(self.lengths.values())

    @property
    def state(self) -> str:
        """In words."""
        return "under way, or left by a training that died" if self.may_go_on else "left: gc removes it"

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        directory = self.directory
        return {
            "folder": directory.key,
            "seq": directory.seq,
            "step": directory.step,
            "incarnation": directory.inc,
            "objects": len(self.lengths),
            "bytes": self.bytes,
            "may_go_on": self.may_go_on,
        }


async def incomplete(catalog: Catalog, listing: Listing) -> list[Incomplete]:
    """Those that `listing` does not list, by rising number; none where a lost record may be what lists them.

    What was listed and is being deleted is none of them, nor what is listed shares of it.
    """
    if listing.head is None or listing.lost:
        return []
    shared, folders = needed(listing.checkpoints)
    newest = max((checkpoint.seq for checkpoint in listing.checkpoints), default=0)
    inc = listing.head.inc if may_be_held(listing.head) else listing.head.inc + 1
    found: dict[DataDirectory, Incomplete] = {}
    async for entry in catalog.storage.list(names.DATA):
        directory = names.directory_of(entry.key)
        if directory is not None and directory.key not in folders and entry.key not in shared:
            one = found.setdefault(directory, Incomplete(directory, directory.inc >= inc))
            one.lengths[entry.key] = entry.length
    never = [one for one in found.values() if one.directory.seq > newest or one.directory.manifest not in one.lengths]
    return sorted(never, key=lambda one: (one.directory.seq, one.directory.nonce))
