"""Keeping: what each record drops: what no rule keeps, and what was asked to go; never what is marked or being read."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from asyncckpt.checkpoints.listing import Listing
from asyncckpt.errors import StorageError
from asyncckpt.events import Leftover, Listeners
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Checkpoint, Removal
from asyncckpt.retention import Monitor, PrunePlan, RetentionPolicy, Told, monitor_of, plan, replaces
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.listed import Listed
from asyncckpt.worker.commitlog.past import Past
from asyncckpt.worker.commitlog.standing import Standing
from asyncckpt.worker.commitlog.wishes import Wishes, read_wishes
from asyncckpt.worker.commitlog.writer import Writer

logger = logging.getLogger("asyncckpt")

MOST = 256
"""Removals that a record names, beside those that cannot wait: whoever looks at the run reads that record."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a record drops and whose marks it acknowledges, and the requests that are answered by it."""

    removed: tuple[Removal, ...] = ()
    acknowledged: tuple[int, ...] = ()
    requests: tuple[str, ...] = ()

    def parts(self) -> Iterator[Verdict]:
        """The same for several records, each of which is small; what was asked is answered by the last."""
        for start in range(0, len(self.removed), MOST):
            is_last = start + MOST >= len(self.removed)
            yield replace(self, removed=self.removed[start : start + MOST], requests=self.requests if is_last else ())


class Keeping:
    """The retention of one service. `reading` counts who reads a checkpoint, by sequence number."""

    def __init__(
        self, storage: Storage, policy: RetentionPolicy | None, monitor: Monitor | None, listeners: Listeners
    ) -> None:
        self.reading: dict[int, int] = {}
        self.found: dict[Finding, Damage] = {}
        """Damage that was found, and that the root was not told of yet."""
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
        self.reading, self.found = past.reading, past.found

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

    async def tell_root(self) -> None:
        """Leave word of the damage that was found, for whoever comes next; only while the run is held.

        Where that fails it is tried again at the next record; until then retention here knows it all the same.
        """
        for finding, damage in [*self.found.items()]:
            try:
                await self._storage.put(finding.key, [damage.encode()])
            except (StorageError, OSError) as error:
                what = f"the note that checkpoint {finding.seq:08d} is damaged"
                logger.warning("%s cannot be left in %s: %s", what, self._storage.url, error)
                self._listeners.emit(Leftover(what, error))
                return
            self.found.pop(finding, None)

    async def judge(self, writer: Writer, newest: Checkpoint, overwritten: Mapping[int, str]) -> Verdict:
        """What the record of `newest` drops; more than `MOST` go with the next ones.

        Where pins and tags cannot be read nothing goes: one of them may be what somebody needs most.
        """
        try:
            wishes = await read_wishes(self._storage, self._listeners)
        except StorageError as error:
            self._listeners.emit(Leftover("retention, since pins and tags could not be read", error))
            return Verdict()
        listed = writer.listed
        told = self._told(wishes, listed.get, unwanted=overwritten)
        monitor = self._monitor or listed.contest.monitor
        removed = self._standing_of(listed, monitor).removed(newest, monitor, told)
        # A next save would not find these: its step is another, and it is no longer the first one.
        urgent = {r.seq for r in removed if r.rule in ("replaced", "overwritten")}
        waiting = [r.seq for r in removed if r.seq not in urgent]
        now = urgent.union(waiting[:MOST])
        requests = wishes.requests if len(waiting) <= MOST else ()  # answered once everything is gone
        return Verdict(tuple(r for r in removed if r.seq in now), wishes.acknowledged(listed), requests)

    async def judge_in_haste(self, writer: Writer, newest: Checkpoint) -> Verdict:
        """What cannot wait for the next save: what `newest` replaces, which no save of another step would find."""
        if not any(replaces(newest, c) for c in writer.listed):
            return Verdict()  # and nothing is asked of the store
        verdict = await self.judge(writer, newest, {})
        return Verdict(tuple(r for r in verdict.removed if r.rule == "replaced"), verdict.acknowledged)

    async def needed(self) -> set[int]:
        """What stays whatever happens: it is being read, pinned or tagged; raises `StorageError` if nobody knows."""
        wishes = await read_wishes(self._storage, self._listeners)
        return {*self.reading, *wishes.marks}

    def _standing_of(self, listed: Listed, monitor: Monitor | None) -> Standing:
        if self._judged is not listed:  # the run was taken, maybe anew
            self._judged, self._standing = listed, Standing(self._policy, monitor)
            listed.follow(self._standing)
        return self._standing

    async def judge_alone(
        self, writer: Writer, agreed: Mapping[int, str] | None = None, given_up: Collection[int] = ()
    ) -> tuple[PrunePlan, Verdict]:
        """What a record that commits nothing drops, `agreed` too; raises `StorageError` if wishes cannot be read.

        Of those, `given_up` are known to be damaged.
        """
        wishes = await read_wishes(self._storage, self._listeners)
        found = self._plan(writer.listing, wishes, writer.parent, agreed or {}, given_up)
        return found, Verdict(found.removed, wishes.acknowledged(writer.listed), wishes.requests)

    async def preview(
        self,
        listing: Listing,
        parent: int | None = None,
        agreed: Mapping[int, str] | None = None,
        given_up: Collection[int] = (),
    ) -> PrunePlan:
        """What pruning would do now, if `agreed` are to go too, of which `given_up` are known to be damaged.

        Raises `StorageError`.
        """
        wishes = await read_wishes(self._storage, self._listeners)
        return self._plan(listing, wishes, parent, agreed or {}, given_up)

    def _plan(
        self,
        listing: Listing,
        wishes: Wishes,
        parent: int | None,
        agreed: Mapping[int, str],
        given_up: Collection[int],
    ) -> PrunePlan:
        # Not what the head names, whose record may be lost: then a resume takes the one before.
        latest, live = next((c.seq for c in listing.candidates()), None), listing.checkpoints
        told = replace(
            self._told(wishes, {c.seq: c for c in live}.get),
            latest=latest,
            parent=parent,
            asked={**wishes.unwanted, **agreed},
            given_up=wishes.given_up.union(given_up),
        )
        # What is best is known without a monitor too, where an earlier training had one.
        return plan(self._policy, live, monitor=self._monitor or monitor_of(live), told=told)

    def _told(
        self, wishes: Wishes, listed: Callable[[int], Checkpoint | None], unwanted: Mapping[int, str] | None = None
    ) -> Told:
        found = [(finding, listed(finding.seq)) for finding in wishes.damaged.union(self.found)]
        return Told(
            reading=self.reading.keys() | self.spared,
            damaged=[f.seq for f, checkpoint in found if checkpoint is not None and f == Finding.of(checkpoint)],
            marks=wishes.spared,
            asked=wishes.unwanted,
            given_up=wishes.given_up,
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
