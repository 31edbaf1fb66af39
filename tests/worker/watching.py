"""Watching: a store that is looked at after every change, so that no wrong state passes unseen."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncckpt.catalog import Catalog, Listing
from asyncckpt.format.record import Record
from asyncckpt.storage.base import Storage
from asyncckpt.testing.requests import FaultyStorage
from tests.worker.drive import Outcome, Session, checked, leftovers


@dataclass(slots=True)
class Watch:
    """Holds the history of one store against what the protocol promises."""

    storage: Storage
    violations: list[str] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)
    listed: set[int] = field(default_factory=set)
    _opened: dict[int, int] = field(default_factory=dict)
    _head: Record | None = None

    async def look(self, when: str) -> None:
        """Look at every record that counts, and that what they name is there."""
        try:
            listing = await Catalog(self.storage).listing()
            for lost in listing.lost.values():
                raise lost
            await self._exist(listing)
        except Exception as error:
            self.violations.append(f"{when}: {error!r}")
        else:
            self._compare(when, listing)

    async def look_closely(self, when: str) -> None:
        """The same, and every byte of every listed checkpoint."""
        await self.look(when)
        try:
            await checked(self.storage)
        except Exception as error:
            self.violations.append(f"{when}: {error!r}")

    def hold_to(self, outcome: Outcome, when: str) -> None:
        """What was reported durable is lost only by retention."""
        if lost := outcome.durable - self.listed - self.dropped:
            self.violations.append(f"{when}: reported durable, but not listed: {sorted(lost)}")

    async def restart(self, step: int, when: str) -> None:
        """The next start works, and its sweep leaves nothing that no live record names."""
        try:
            async with Session(self.storage, keep=2) as session:
                await session.resume()
                await session.saved(step)
            await self.look_closely(f"{when}, restarted")
            if found := await leftovers(self.storage):
                self.violations.append(f"{when}, restarted: left over: {found}")
        except Exception as error:
            self.violations.append(f"{when}, restarted: {error!r}")

    async def _exist(self, listing: Listing) -> None:
        for checkpoint in listing.checkpoints:
            for key in (checkpoint.manifest.key, *(pack.key for pack in checkpoint.packs)):
                assert await self.storage.head(key), f"{key} of a listed checkpoint is not there"

    def _compare(self, when: str, listing: Listing) -> None:
        head, former = listing.head, self._head
        if head is None:
            assert former is None, f"{when}: the head is gone"
            return
        if former is not None and head.slot != former.slot:
            self._compare_heads(when, former, head)
        if head.kind == "open":
            self._opened.setdefault(head.inc, head.slot)
        self.dropped |= {removal.seq for removal in head.removed}
        now = {checkpoint.seq for checkpoint in listing.checkpoints}
        if lost := self.listed - now - self.dropped:
            self.violations.append(f"{when}: was listed and is no more: {sorted(lost)}")
        for record in listing.records:
            if record.inc != head.inc and record.slot > self._opened.get(head.inc, head.slot):
                self.violations.append(f"{when}: slot {record.slot} is from a writer that was fenced by then")
        self.listed, self._head = now, head

    def _compare_heads(self, when: str, former: Record, head: Record) -> None:
        if head.slot < former.slot or head.inc < former.inc:
            self.violations.append(f"{when}: the head went back from {former} to {head}")
        if (head.latest or 0) < (former.latest or 0) and head.kind != "rollback":
            self.violations.append(f"{when}: latest went back from {former.latest} to {head.latest}")
        if not head.live <= former.live | {head.slot}:
            self.violations.append(f"{when}: {head.live} lists more than {former.live} did")


class WatchedStorage(FaultyStorage):
    """Has its `watch` look after each change that could show."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch.storage)
        self.watch = watch

    async def applied(self, request: str) -> None:
        if request.startswith(("create commits/", "delete", "abort", "late")):
            await self.watch.look(f"after {request}")
