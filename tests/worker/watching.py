"""Watching: a store held against what the protocol promises, after every change or now and then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.format.record import Record
from asyncckpt.storage.base import Storage
from asyncckpt.testing.requests import FaultyStorage
from tests.worker.drive import Session, checked, leftovers

KEEP = 2
"""What retention leaves in every run that is watched."""


@dataclass(slots=True)
class Watch:
    """Looks at `storage` and collects what should not be; `always` says that it looks after every change."""

    storage: Storage
    always: bool = True
    violations: list[str] = field(default_factory=list)
    _listing: Listing = field(default_factory=lambda: Listing(None))
    _seen: list[Record] = field(default_factory=list)

    async def look(self, when: str) -> None:
        """Everything listed has its record, its manifest and its packs, and is what may follow the last look."""
        try:
            listing = await Catalog(self.storage).listing()
            for lost in listing.lost.values():
                raise lost
            for checkpoint in listing.checkpoints:
                for key in (checkpoint.manifest.key, *(pack.key for pack in checkpoint.packs)):
                    assert await self.storage.head(key), f"{key} of a listed checkpoint is not there"
            former, self._listing = self._listing, listing
            self._seen += [record for record in listing.records if record not in self._seen]
            self._compare(former, listing)
        except Exception as error:
            self.violations.append(f"{when}: {error!r}")

    async def look_closely(self, when: str) -> None:
        """The same, and every byte of every listed checkpoint."""
        await self.look(when)
        try:
            await checked(self.storage)
        except Exception as error:
            self.violations.append(f"{when}: {error!r}")

    def hold_up(self, offered: Listing) -> None:
        """A resume goes on from what is the latest."""
        latest = [listing.head.latest if listing.head else None for listing in (offered, self._listing)]
        if latest[0] != latest[1]:
            self.violations.append(f"resumed from {latest[0]}, while {latest[1]} is the latest")

    async def conclude(self, sessions: Iterable[Session], durable: Iterable[Record] = ()) -> None:
        """All writers are done: hold the store to what they were told, and start again on it.

        `durable`: records that somebody else was told are durable.
        """
        await self.look_closely("over")
        sessions = list(sessions)
        durable = [*durable, *(record for session in sessions for record in session.records)]
        self._hold_to(durable)
        for session in sessions:
            self._hold_off(session, durable)
        await self._restart()

    def _hold_to(self, durable: Iterable[Record]) -> None:
        """What was reported durable is lost only by retention."""
        listed = {c.seq: c.manifest for c in self._listing.checkpoints}
        for record in durable:
            saved = record.checkpoint
            assert saved is not None
            later = [seq for seq in listed if seq > saved.seq]
            known = record in self._seen or not self.always
            if listed.get(saved.seq) != saved.manifest and not (known and len(later) >= KEEP):
                self.violations.append(f"over: {_name(record)} was reported durable; listed are {sorted(listed)}")

    def _hold_off(self, session: Session, durable: Iterable[Record]) -> None:
        """Nothing of an earlier incarnation counts that was committed after this one had taken the run."""
        writer = session.service.ownership.writer
        for record in (*self._listing.records, *durable):
            if writer is not None and record.inc < writer.inc and record.slot > writer.opened:
                self.violations.append(f"over: {_name(record)} is from a writer that was fenced by then")

    async def _restart(self) -> None:
        try:
            async with Session(WatchedStorage(self), keep=KEEP) as session:
                await session.resume()
                await session.saved(99)
            await self.look_closely("restarted")
            left = await leftovers(self.storage)
            assert not left, f"left over: {left}"
        except Exception as error:
            self.violations.append(f"restarted: {error!r}")

    def _compare(self, former: Listing, now: Listing) -> None:
        if former.head is None:
            return
        assert now.head is not None, "the head is gone"
        assert now.head.slot >= former.head.slot, "the head went back"
        assert now.head.inc >= former.head.inc, "an earlier incarnation is back"
        assert (now.head.latest or 0) >= (former.head.latest or 0), "latest went back"
        if self.always and now.head.slot != former.head.slot:
            self._compare_neighbours(former, now, now.head)

    def _compare_neighbours(self, former: Listing, now: Listing, head: Record) -> None:
        if head.previous is not None and former.head is not None and head.previous[0] > former.head.slot:
            # What stands between was adopted without having counted: only in mode "fenced".
            assert head.kind == "open", "the chain has a gap"
            assert not now.lost
            return
        assert set(head.live) <= {record.slot for record in former.records} | {head.slot}, "more is listed than was"
        gone = {c.seq for c in former.checkpoints} - {c.seq for c in now.checkpoints}
        assert gone == {removal.seq for removal in head.removed}, f"{gone} was listed and is no more"
        assert head.previous is not None
        assert former.head is not None
        assert head.previous[0] == former.head.slot, "the chain has a gap"


def _name(record: Record) -> str:
    return f"slot {record.slot} of incarnation {record.inc}"


class WatchedStorage(FaultyStorage):
    """Has its `watch` look after each change that could show."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch.storage)
        self.watch = watch

    async def applied(self, request: str) -> None:
        if request.startswith(("create commits/", "put commits/", "delete", "abort", "late")):
            await self.watch.look(f"after {request}")
