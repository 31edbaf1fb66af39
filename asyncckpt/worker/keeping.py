"""Keeping: what each record drops: what no rule keeps, and what was asked to go; never what is marked or being read."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from asyncckpt.catalog import Listing
from asyncckpt.errors import StorageError
from asyncckpt.events import Leftover, Listeners
from asyncckpt.format.record import Checkpoint
from asyncckpt.retention import Monitor, PrunePlan, RetentionPolicy, Told, plan
from asyncckpt.storage.base import Storage
from asyncckpt.worker.wishes import Wishes, read_wishes
from asyncckpt.worker.writer import Writer


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a record drops and whose marks it acknowledges, and the requests that are answered by it."""

    plan: PrunePlan
    acknowledged: tuple[int, ...] = ()
    requests: tuple[str, ...] = ()


class Keeping:
    """The retention of one service. `reading` and `damaged` are sequence numbers."""

    def __init__(
        self, storage: Storage, policy: RetentionPolicy | None, monitor: Monitor | None, listeners: Listeners
    ) -> None:
        self.reading: dict[int, int] = {}
        self.damaged: set[int] = set()
        self._storage = storage
        self._policy = policy
        self._monitor = monitor
        self._listeners = listeners

    def inherit(self, former: Keeping) -> None:
        """Go on where a service that crashed was."""
        self.reading, self.damaged = former.reading, former.damaged

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

    async def judge(self, writer: Writer, newest: Checkpoint | None, overwritten: Mapping[int, str]) -> Verdict:
        """What the next record of `writer` drops, with `newest` where it commits one.

        Where pins and tags cannot be read nothing goes: one of them may be what somebody needs most.
        """
        try:
            wishes = await read_wishes(self._storage, self._listeners)
        except StorageError as error:
            self._listeners.emit(Leftover("retention, since pins and tags could not be read", error))
            return Verdict(PrunePlan((), (), 0))
        live = writer.checkpoints
        planned = self._plan(live, wishes, writer.head.latest, newest, overwritten)
        return Verdict(planned, wishes.acknowledged(live), wishes.requests)

    async def preview(self, listing: Listing) -> PrunePlan:
        """What pruning would do now; raises `StorageError`."""
        wishes = await read_wishes(self._storage, self._listeners)
        latest = listing.head.latest if listing.head else None
        return self._plan(listing.checkpoints, wishes, latest, None, {})

    def _plan(
        self,
        live: Collection[Checkpoint],
        wishes: Wishes,
        latest: int | None,
        newest: Checkpoint | None,
        overwritten: Mapping[int, str],
    ) -> PrunePlan:
        unwanted = {**overwritten, **wishes.unwanted}
        told = Told(latest, self.reading.keys(), self.damaged, wishes.spared, unwanted)
        return plan(self._policy, live, newest=newest, monitor=self._monitor, told=told)

    async def answer(self, verdict: Verdict) -> None:
        """The record of `verdict` is durable: its requests are done with."""
        if not verdict.requests:
            return
        try:
            await self._storage.delete(verdict.requests)
        except StorageError as error:
            self._listeners.emit(Leftover("requests that were answered", error))
