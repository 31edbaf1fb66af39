"""Writer: one session of ownership of a run. Its incarnation is the fence.

``open`` takes the run with a record of its own before anything is chosen or swept: whoever held it before can
commit no more, since every commit needs the slot after its own last one. All of a writer's calls come from one
actor, one after the other.
"""

from __future__ import annotations

import functools
import os
import secrets
import socket
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.commits import Fenced as Log
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.clock import Clock
from asyncckpt.errors import CheckpointCorruptError, Fenced, ObjectNotFound, RunContended, SaveFailed
from asyncckpt.format import names
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.record import Checkpoint, Kind, Record, Removal, WriterId
from asyncckpt.format.runfile import RunFile
from asyncckpt.format.sealed import sealed_digest
from asyncckpt.format.slots import Slots
from asyncckpt.retention import best_of, monitor_of
from asyncckpt.worker.commitlog.commit import commit, create, fence
from asyncckpt.worker.commitlog.fencing import take_fenced
from asyncckpt.worker.commitlog.founding import bury, founded
from asyncckpt.worker.commitlog.home import Home, Seen
from asyncckpt.worker.commitlog.listed import Listed
from asyncckpt.worker.increment import Base

OPEN_ATTEMPTS = 10
"""How often an open that was overtaken by another one tries again before it gives up."""


def new_writer_id(clock: Clock) -> WriterId:
    """An identity that no other checkpointer has; one that opens its run anew keeps its own."""
    return WriterId(secrets.token_hex(16), socket.gethostname(), os.getpid(), int(clock.time() * 1e6))


@dataclass(slots=True)
class Writer:
    """A run, held."""

    catalog: Catalog
    run: RunFile
    head: Record
    """Own newest record."""
    listed: Listed
    """What the own head lists."""
    lost: Mapping[int, CheckpointCorruptError]
    """Live slots whose record is damaged: kept live, counted in no rule."""
    opened: int
    """Slot of the open record."""
    first_seq: int
    """The first sequence number of this session."""
    before: tuple[int, ...]
    """Slots that held a record when the run was opened: what the sweep may look at."""
    parent: int | None = None
    """Sequence number of the checkpoint that the training continues from."""
    next_seq: int = 1
    dropped: list[Checkpoint] = field(default_factory=list)
    """What the newest record dropped."""
    stale: list[int] = field(default_factory=list)
    """Slots whose records the newest record made useless."""
    hints: set[str] = field(default_factory=set)
    """The hints that are known to be nobody else's files."""
    base: Base | None = None
    """What the next save may share. A writer that opened anew has none until it has read or written something."""
    is_alone: bool = True
    """See `asyncckpt.worker.commitlog.sweep.View`: whoever held the run before has lost it."""

    @property
    def inc(self) -> int:
        """The incarnation."""
        return self.head.inc

    @property
    def nonce(self) -> str:
        """The writer's own nonce."""
        return self.head.writer.nonce

    @property
    def listing(self) -> Listing:
        """What the own head lists, without pins and tags."""
        return Listing(self.head, self.listed.records, self.lost, judge=self.catalog.monitor)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The listed checkpoints by rising sequence number."""
        return list(self.listed)

    def attempt(self, step: int, nonce: str | None = None) -> DataDirectory:
        """A new sequence number and a folder that no other attempt will ever use, whatever `nonce` it is given."""
        directory = DataDirectory(self.next_seq, step, self.inc, nonce or secrets.token_hex(4))
        self.next_seq += 1
        return directory

    async def commit(
        self,
        checkpoint: Checkpoint,
        removed: Collection[Removal],
        acknowledged: Collection[int] = (),
        brought: Container[str] = (),
    ) -> Record:
        """Commit `checkpoint`, dropping `removed` in the same record; see `asyncckpt.worker.commitlog.commit.commit`.

        `brought` are the packs that were brought from another tier for it.
        """
        self._check_packs(checkpoint, brought)
        self.next_seq = max(self.next_seq, checkpoint.seq + 1)  # what is brought from another tier was numbered there
        slot, gone = self.head.slot + 1, self._present(removed)
        best = self.listed.contest.best(without=gone, added=checkpoint)
        # A partial one is what nobody may take unasked: the latest stays the one that it was.
        latest: dict[str, Any] = {"latest": checkpoint.seq, "latest_inc": self.inc, "latest_slot": slot}
        record = self._next(
            "checkpoint",
            live=self.head.live.without(gone.values()).followed_by(slot),
            **({} if checkpoint.partial else latest),
            best_slot=slot if best is checkpoint else self._slot(best),
            checkpoint=checkpoint,
            removed=tuple(removed),
            acknowledged=tuple(acknowledged),
        )
        await self._list(record, gone)
        if not checkpoint.partial:
            self.parent = max(self.parent or 0, checkpoint.seq)  # the training may be further on the local tier by now
        return self.head

    async def drop(self, removed: Collection[Removal], acknowledged: Collection[int] = ()) -> None:
        """Drop listed checkpoints by a record of its own; never the latest."""
        gone = self._present(removed)
        record = self._next(
            "prune",
            live=self.head.live.without(gone.values()),
            best_slot=self._slot(self.listed.contest.best(without=gone)),
            removed=tuple(removed),
            acknowledged=tuple(acknowledged),
        )
        await self._list(record, gone)

    async def amend(self, checkpoint: Checkpoint) -> None:
        """List `checkpoint`, which is listed, as it is given now; the record that told of it before is stale then."""
        slot, former = self.head.slot + 1, self.listed.record(checkpoint.seq).slot
        listed = [checkpoint if c.seq == checkpoint.seq else c for c in self.listed]
        best = best_of(listed, monitor_of(listed))
        record = self._next(
            "amend",
            live=self.head.live.without([former]).followed_by(slot),
            latest_slot=slot if self.head.latest == checkpoint.seq else self.head.latest_slot,
            best_slot=slot if best is checkpoint else self._slot(best),
            checkpoint=checkpoint,
        )
        useless = {former} if self.head.slot in self.head.live else {former, self.head.slot}
        await self._advance(record)
        self.dropped, self.stale = [], sorted(useless)
        # Anew, in order: whoever follows what is listed takes for granted that the newest comes last.
        self.listed = Listed(self.head if r.slot == former else r for r in self.listed.records)

    def _present(self, removed: Iterable[Removal]) -> dict[int, int]:
        """Of what is to go, what is listed: sequence numbers and slots."""
        return {r.seq: self.listed.record(r.seq).slot for r in removed if r.seq in self.listed}

    def _slot(self, checkpoint: Checkpoint | None) -> int | None:
        return None if checkpoint is None else self.listed.record(checkpoint.seq).slot

    async def _list(self, record: Record, gone: Mapping[int, int]) -> None:
        """Make `record` the head, which lists `gone` no longer (sequence numbers and slots)."""
        former = self.head
        await self._advance(record)
        self.dropped = [self.listed.remove(seq) for seq in gone]
        self.stale = [*gone.values(), *([former.slot] if former.slot not in former.live else ())]
        if record.checkpoint is not None:
            self.listed.add(record, record.checkpoint)

    def _check_packs(self, checkpoint: Checkpoint, brought: Container[str]) -> None:
        """Raise unless every pack is the attempt's own or named by what is listed now: others may go any moment."""
        own = checkpoint.folder + "/"
        for pack in checkpoint.packs:
            if not (pack.key.startswith(own) or pack.key in self.listed.uses or pack.key in brought):
                self.base = None
                raise SaveFailed(f"the base of step {checkpoint.step} is gone: no listed checkpoint names {pack.key}")

    async def roll_back(self, seq: int) -> None:
        """Make an older listed checkpoint the latest, so that a crash before the next save remembers it."""
        slot = self.listed.record(seq).slot if seq in self.listed else None
        await self._advance(self._next("rollback", latest=seq, latest_inc=self.inc, latest_slot=slot))
        self.parent = seq

    async def close(self, whose: WriterId | None = None) -> None:
        """Leave word that this writer ended, and nothing of it is in flight; in the name of `whose`, if not its own."""
        await self._advance(self._next("close", writer=whose or self.head.writer))

    def _next(self, kind: Kind, **changes: Any) -> Record:
        blank: dict[str, Any] = {"checkpoint": None, "removed": (), "acknowledged": (), "digest": ""}
        return replace(
            self.head,
            kind=kind,
            slot=self.head.slot + 1,
            previous=(self.head.slot, self.head.digest),
            next_seq=self.next_seq,
            **{**blank, **changes},
        )

    async def _advance(self, record: Record) -> None:
        try:
            digest = await commit(self.catalog, record)
        except Fenced as error:
            if error.adopted:
                self.head = record
            raise
        self.head = replace(record, digest=digest)


def home_of(writer: Writer) -> Home:
    """The home that `writer` has taken, as other tiers know it."""
    return Home(writer.run.id, writer.inc, writer.head.writer)


Condition: TypeAlias = Callable[[Record | None], None]
"""Given the newest record (or None), raises `RunContended` where the run must not be taken as it is now."""


def unmoved(head: Record | None, url: str) -> Condition:
    """The condition that `head` still is the newest record."""

    def check(found: Record | None) -> None:
        if (found and found.digest) != (head and head.digest):
            raise RunContended(f"{url} was taken by another process meanwhile; nothing was done")

    return check


async def open_run(
    catalog: Catalog,
    me: WriterId,
    created: int,
    *,
    after: int | None = None,
    on: Condition | None = None,
    home: Home | None = None,
    seen: Seen | None = None,
) -> Writer:
    """Take the run: create it where there is none, and stand above every earlier writer.

    `created` is the time in microseconds for a new run. `after` is the last incarnation that `me` is known to have
    had: if anyone else has written since, that is `Fenced`, not a reason to take the run back. `on` is asked
    before each attempt. With `home` the run is that one's in another tier, under its numbers; without, numbers go on
    above what was `seen` in other tiers. Raises `RunContended` if others kept overtaking, `RunRefused` if this store
    cannot commit as the run demands or holds what only looks like a run, `HeadDamaged`, or a `StorageError`.
    """
    run = await founded(catalog, created, home)
    for _ in range(OPEN_ATTEMPTS):
        writer = await _try_open(catalog, run, me, after, on, home, seen or Seen())
        if writer is not None:
            return writer
    raise RunContended(
        f"{catalog.storage.url}: other writers kept opening this run; point each job at a root of its own"
    )


async def _try_open(
    catalog: Catalog,
    run: RunFile,
    me: WriterId,
    after: int | None,
    on: Condition | None,
    home: Home | None,
    seen: Seen,
) -> Writer | None:
    if isinstance(catalog.commits, Log):
        opening = functools.partial(_open_record, me, seen.next_seq)
        taken = await take_fenced(
            *(catalog, catalog.commits, run, me, after, on or (lambda head: None), opening),
            above=seen.inc,
            inc=None if home is None else home.inc,
        )
        return None if taken is None else _held(catalog, run, taken.record, taken.listing, taken.before)
    present = await catalog.slots()
    if not present:
        await catalog.check_recorded()
    try:
        # Head and slot come from one listing: a record that appears after it makes the create below fail.
        head = await catalog.newest(present, run)
        passed = [slot for slot in present if head is None or slot > head.slot]
        await bury(catalog.storage, map(names.record_key, passed))
        if passed and await catalog.newest(present, run) != head:
            return None
        listing = await catalog.listing_of(head) if head else Listing(None)
    except ObjectNotFound:
        return None
    if after is not None and head is not None and head.writer.nonce != me.nonce:
        raise fence(catalog.storage.url, after, head)
    if on is not None:
        on(head)  # whoever comes between this and the create makes that fail
    inc = max(head.inc if head else 0, seen.inc) + 1
    if home is not None:
        _check_led(catalog, head, home)
        inc = home.inc
    record = _open_record(me, seen.next_seq, head, max(present, default=0) + 1, inc)
    data = record.encode()
    if not await create(catalog.storage, names.record_key(record.slot), data):
        return None
    # The slot may have been a hole that retention left: then it proves nothing. Only standing above every
    # other record does, and only a look after the own create can tell.
    if await catalog.slots(above=record.slot):
        return None
    return _held(catalog, run, replace(record, digest=sealed_digest(data)), listing, tuple(present))


def _held(catalog: Catalog, run: RunFile, record: Record, listing: Listing, before: tuple[int, ...]) -> Writer:
    """The writer whose open record stands."""
    return Writer(
        catalog=catalog,
        run=run,
        head=record,
        listed=Listed(listing.records),
        lost=dict(listing.lost),
        opened=record.slot,
        before=before,
        parent=record.latest,
        next_seq=record.next_seq,
        first_seq=record.next_seq,
    )


def _check_led(catalog: Catalog, head: Record | None, home: Home) -> None:
    """Raise `Fenced` where a tier is in the hands of whoever has taken home since, or of a home that is not this."""
    if head is not None and head.inc >= home.inc and head.writer.nonce != home.writer.nonce:
        raise fence(catalog.storage.url, home.inc, head)


def _open_record(me: WriterId, next_seq: int, head: Record | None, slot: int, inc: int) -> Record:
    if head is None:
        return Record("open", slot, inc, me, None, Slots(), None, 0, next_seq)
    return Record(
        kind="open",
        slot=slot,
        inc=inc,
        writer=me,
        previous=(head.slot, head.digest),
        live=head.live,
        latest=head.latest,
        latest_inc=head.latest_inc,
        next_seq=max(head.next_seq, next_seq),
        latest_slot=head.latest_slot,
        best_slot=head.best_slot,
    )
