"""Keeping: what each record drops: what no rule keeps, and what was asked to go; never what is marked or being read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from asyncckpt.errors import StorageError
from asyncckpt.events import Leftover, Listeners
from asyncckpt.format.record import Checkpoint, Removal
from asyncckpt.listing import Listing
from asyncckpt.retention import Monitor, PrunePlan, RetentionPolicy, Told, monitor_of, plan
from asyncckpt.storage.base import Storage
from asyncckpt.worker.listed import Listed
from asyncckpt.worker.past import Past
from asyncckpt.worker.standing import Standing
from asyncckpt.worker.wishes import Wishes, read_wishes
from asyncckpt.worker.writer import Writer

MOST = 256
"""Removals that a save's record names, beside those that cannot wait: whoever looks at the run reads that record."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a record drops and whose marks it acknowledges, and the requests that are answered by it."""

    removed: tuple[Removal, ...] = ()
    acknowledged: tuple[int, ...] = ()
    requests: tuple[str, ...] = ()


class Keeping:
    """The retention of one service. `reading` and `damaged` are sequence numbers."""

    def __init__(
        self, storage: Storage, policy: RetentionPolicy | None, monitor: Monitor | None, listeners: Listeners
    ) -> None:
        self.reading: dict[int, int] = {}
        self.damaged: set[int] = set()
        self.spared: frozenset[int] = frozenset()
        """What stays for a reason of its own."""
        self._storage = storage
        self._policy = policy
        self._monitor = monitor
        self._listeners = listeners
        self._judged: Listed | None = None
        self._standing = Standing(policy, monitor)
        """Of what is in `_judged`."""

    def inherit(self, past: Past) -> None:
        """Go on where a service that crashed was."""
        self.reading, self.damaged = past.reading, past.damaged

    @contextlib.contextmanager
    def hold(self, seq: int) -> Iterator[None]:
        """Keep a checkpoint that is being read."""
        self.reading[seq] = self.reading.get(seq, 0) + 1
        try:
            yield
        finally:
            self.reading[seq] -= 1
            if not self.reading[seq]:
                del self.reading[seq]

    async def judge(self, writer: Writer, newest: Checkpoint, overwritten: Mapping[int, str]) -> Verdict:
        """What the record of `newest` drops; more than `MOST` go with the next ones.

        Where pins and tags cannot be read nothing goes: one of them may be what somebody needs most.
        """
        try:
            wishes = await read_wishes(self._storage, self._listeners)
        except StorageError as error:
            self._listeners.emit(Leftover("retention, since pins and tags could not be read", error))
            return Verdict()
        told, listed = self._told(wishes, unwanted=overwritten), writer.listed
        monitor = self._monitor or listed.contest.monitor
        removed = self._standing_of(listed, monitor).removed(newest, monitor, told)
        # A next save would not find these: its step is another, and it is no longer the first one.
        urgent = {r.seq for r in removed if r.rule in ("replaced", "overwritten")}
        waiting = [r.seq for r in removed if r.seq not in urgent]
        now = urgent.union(waiting[:MOST])
        requests = wishes.requests if len(waiting) <= MOST else ()  # answered once everything is gone
        return Verdict(tuple(r for r in removed if r.seq in now), wishes.acknowledged(listed), requests)

    def _standing_of(self, listed: Listed, monitor: Monitor | None) -> Standing:
        if self._judged is not listed:  # the run was taken, maybe anew
            self._judged, self._standing = listed, Standing(self._policy, monitor)
            listed.follow(self._standing)
        return self._standing

    async def judge_alone(self, writer: Writer, agreed: Mapping[int, str] | None = None) -> tuple[PrunePlan, Verdict]:
        """What a record that commits nothing drops, `agreed` too; raises `StorageError` if wishes cannot be read."""
        wishes = await read_wishes(self._storage, self._listeners)
        found = self._plan(writer.listing, wishes, writer.parent, agreed or {})
        return found, Verdict(found.removed, wishes.acknowledged(writer.listed), wishes.requests)

    async def preview(self, listing: Listing, parent: int | None = None) -> PrunePlan:
        """What pruning would do now; raises `StorageError`."""
        return self._plan(listing, await read_wishes(self._storage, self._listeners), parent, {})

    def _plan(self, listing: Listing, wishes: Wishes, parent: int | None, agreed: Mapping[int, str]) -> PrunePlan:
        # Not what the head names, whose record may be lost: then a resume takes the one before.
        latest = next((c.seq for c in listing.candidates()), None)
        told = replace(self._told(wishes), latest=latest, parent=parent, asked={**wishes.unwanted, **agreed})
        live = listing.checkpoints
        # What is best is known without a monitor too, where an earlier training had one.
        return plan(self._policy, live, monitor=self._monitor or monitor_of(live), told=told)

    def _told(self, wishes: Wishes, unwanted: Mapping[int, str] | None = None) -> Told:
        return Told(
            reading=self.reading.keys() | self.spared,
            damaged=self.damaged,
            marks=wishes.spared,
            asked=wishes.unwanted,
            unwanted=unwanted or {},
        )

    async def answer(self, verdict: Verdict) -> None:
        """The record of `verdict` is durable: its requests are done with."""
        if not verdict.requests:
            return
        try:
            await self._storage.delete(verdict.requests)
        except StorageError as error:
            self._listeners.emit(Leftover("requests that were answered", error))
