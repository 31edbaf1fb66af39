"""Catalog: the checkpoints of a run as its newest commit record lists them. Reads only, disturbs nobody.

A record that is merely present means nothing: what counts is the live set of the head. Readers may be
overtaken by retention between two requests; then the head has moved on, and they look again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from asyncckpt.checkpoints.commits import Commits, Exclusive, Fenced
from asyncckpt.checkpoints.damage import readable
from asyncckpt.checkpoints.listing import CheckpointInfo, Listing, Which, find, info_of
from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointCorruptError,
    HeadDamaged,
    NotEncrypted,
    ObjectNotFound,
    RunContended,
    RunRefused,
    StorageError,
    UnsupportedFormat,
)
from asyncckpt.format import findings, names, record, runfile
from asyncckpt.format import manifest as manifests
from asyncckpt.format.codec import PLAIN
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.manifest import Manifest
from asyncckpt.format.marks import USER, Mark, by_seq
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.format.runfile import RunFile
from asyncckpt.format.sealed import sealed_digest, unseal
from asyncckpt.retention import Monitor
from asyncckpt.storage.base import Storage

ATTEMPTS = 10
"""How often a reader that retention overtook looks again before it says so."""

_T = TypeVar("_T")


class Catalog:
    """Reads a run's commit log in `storage`; `monitor` decides what is best, see `Listing.judge`.

    With `only_encrypted`, what a checkpoint holds is not read from one that anybody may have written.
    """

    def __init__(self, storage: Storage, monitor: Monitor | None = None, *, only_encrypted: bool = False) -> None:
        self.storage = storage
        self.monitor = monitor
        self._only_encrypted = only_encrypted
        self._id: str | None = None
        self.commits: Commits = Exclusive(storage)

    def through(self, storage: Storage) -> Catalog:
        """The same by way of `storage`; this one where that is its own."""
        if storage is self.storage:
            return self
        return Catalog(storage, self.monitor, only_encrypted=self._only_encrypted)

    async def run(self) -> RunFile | None:
        """The run file, or None where no run was ever opened; one torn before anything was committed is none too.

        Raises `RunRefused` for a root that holds commits without it, or a file of that name that is not one of ours,
        and `StorageError` for one that cannot be read: none of them is an empty root.
        """
        try:
            data = await self.storage.get(names.RUN)
        except ObjectNotFound:
            if await self._is_begun():
                raise RunRefused(
                    f"{self.storage.url} holds commits but no {names.RUN}: it was damaged or half copied; "
                    f"copy {names.RUN} too, or use another root"
                ) from None
            return None
        what = f"{self.storage.url}/{names.RUN}"
        try:
            run = runfile.decode(data, what)
        except CheckpointCorruptError as error:
            if await self._is_begun():
                raise
            # Whether one may be torn here only a probe could tell, and readers write nothing: a writer looks again.
            if runfile.is_torn(data):
                return None
            raise runfile.foreign(what) from error
        self._id = run.id
        if run.mode == "fenced" and not isinstance(self.commits, Fenced):
            self.commits = Fenced(self.storage)
        return run

    async def _is_begun(self) -> bool:
        """Whether anything was ever committed, in whatever mode."""
        return bool(await self.slots()) or bool(await Fenced(self.storage).slots())

    async def check_recorded(self) -> None:
        """Where no slot holds a record: raise `RunRefused` if there is data all the same.

        The record that opens a run is durable before any data: no crash leaves the one without the other.
        """
        async for found in self.storage.list(names.DATA):
            if names.directory_of(found.key) is not None:
                break
        else:
            return
        if not await self.slots():  # if there are, somebody has opened the run since
            raise RunRefused(
                f"{self.storage.url}/{names.DATA} holds checkpoints, but {names.COMMITS} no record of them: put a copy "
                f"of {names.COMMITS} back, use another root, or remove {names.DATA} by hand to give them up"
            )

    async def slots(self, above: int = 0) -> list[int]:
        """The slots above `above` that hold a record which counts now, in rising order."""
        return await self.commits.slots(above)

    async def read(self, slot: int) -> Record:
        """The record in `slot`; raises `ObjectNotFound` or `CheckpointCorruptError`."""
        (key,) = await self.commits.keys([slot])
        return self._record(slot, key, await self.storage.get(key))

    def _record(self, slot: int, key: str, data: memoryview) -> Record:
        found = record.decode(data, f"{self.storage.url}/{key}")
        if found.slot != slot:
            raise CheckpointCorruptError(f"{self.storage.url}/{key} holds the record of slot {found.slot}")
        return found

    async def head(self) -> Record | None:
        """The newest record, or None where nothing was ever committed.

        Raises `HeadDamaged` if it fails its digest: stepping back silently would lose what it committed; and
        `RunRefused` where all records are lost.
        """
        run = await self.run()
        head = None if run is None else await self._retried(lambda: self._head(run))
        if head is None:
            await self.check_recorded()
        return head

    async def _head(self, run: RunFile) -> Record | None:
        # The hint says where to start: what is above it is above it whether or not it is true.
        hint = await self._hint()
        found = await self.newest(await self.slots(above=hint - 1), run) if hint > 1 else None
        return found or await self.newest(await self.slots(), run)

    async def _hint(self) -> int:
        """The slot that the hint `latest` names, or 0."""
        try:
            slot = unseal(await self.storage.get(names.LATEST), names.LATEST).get("slot")
        except AsyncCkptError:
            return 0
        return slot if isinstance(slot, int) else 0

    async def named(self, which: Which) -> tuple[Checkpoint, CheckpointInfo]:
        """The checkpoint that `which` names; the latest and the best are found without reading all others' records.

        Raises `CheckpointNotFoundError` saying what there is, and else as `listing_for` does.
        """
        if which in ("latest", "best") and (found := await self._retried(lambda: self._shortcut(which))) is not None:
            return found
        listing = await self.listing_for(which)
        checkpoint = find(listing, which, self.storage.url)
        return checkpoint, next(info for info in listing.infos() if info.seq == checkpoint.seq)

    async def _shortcut(self, which: Which) -> tuple[Checkpoint, CheckpointInfo] | None:
        """Where the head says which slots they are in, and judged the best as this reader does."""
        head = await self.head()
        slot = None if head is None else head.latest_slot if which == "latest" else head.best_slot
        if head is None or slot is None or slot not in head.live:
            return None
        try:
            checkpoint = (await self.read(slot)).checkpoint
        except CheckpointCorruptError:
            return None  # what comes instead of it only all the others can tell
        if checkpoint is None or (self.monitor is not None and self.monitor != checkpoint.monitor):
            return None
        said = await self._said()
        return checkpoint, info_of(
            checkpoint,
            is_best=slot == head.best_slot,
            marks=by_seq(said).get(checkpoint.seq, ()),
            damaged=Finding.of(checkpoint) in findings.among(said),
        )

    async def newest(self, slots: Sequence[int], run: RunFile) -> Record | None:
        """The record in the highest of `slots`; raises `ObjectNotFound` if it is gone by now."""
        for slot in reversed(slots):
            try:
                return await self.read(slot)
            except CheckpointCorruptError as error:
                if run.publish == "whole":
                    raise HeadDamaged(
                        f"the newest commit record is damaged ({error}), so nobody knows what is listed: put a copy of "
                        f"it back. {_way_around(self.storage.url, (await self._on_record()).checkpoints)}"
                    ) from error
        return None

    async def listing(self, known: Listing | None = None) -> Listing:
        """Every checkpoint that the head lists; a lost record is in ``lost``, never left out silently.

        Of those that are `known` from an earlier look no record is read again.
        """
        return await self._retried(lambda: self._listing(known))

    async def listing_for(self, which: Which) -> Listing:
        """Where to find `which`: in what the head lists, or, where that is damaged, in whatever is on record.

        Raises `HeadDamaged` if only the head could tell: for the latest, the best, and what no other record tells of.
        """
        try:
            return await self.listing()
        except HeadDamaged:
            found = await self._on_record()
            if found.get(which) is None:
                raise
            return found

    async def _on_record(self) -> Listing:
        """Every checkpoint whose record is there and whole, whether or not it is listed."""
        slots = await self.slots()
        found = (await self._decoded(slots)).values()
        # By rising slot: where two tell of one number, the newer counts.
        by_number = {r.checkpoint.seq: r for r in found if isinstance(r, Record) and r.checkpoint is not None}
        records = tuple(record for _, record in sorted(by_number.items()))
        return await self._with_said(Listing(None, records, judge=self.monitor))

    async def _listing(self, known: Listing | None) -> Listing:
        head = await self.head()
        if head is None:
            return Listing(None, judge=self.monitor)
        listing = await self._with_said(await self.listing_of(head, known))
        if listing.lost and (now := await self.head()) is not None and now.slot != head.slot:
            raise ObjectNotFound(f"record {head.slot} was overtaken")  # the new head lists them no longer
        return listing

    async def marks(self) -> dict[int, tuple[Mark, ...]]:
        """Pins and tags by sequence number."""
        return by_seq(await self._said())

    async def _said(self) -> list[str]:
        """The keys of everything that was said of checkpoints from outside their commits."""
        return [found.key async for found in self.storage.list(USER)]

    async def _with_said(self, listing: Listing) -> Listing:
        said = await self._said()
        return replace(listing, marks=by_seq(said), findings=findings.among(said))

    async def damage(self, finding: Finding) -> Damage | None:
        """What `finding` says; None if it was taken back, or is not readable itself. Raises `StorageError`."""
        try:
            data = await self.storage.get(finding.key)
            return findings.decode(data, f"{self.storage.url}/{finding.key}")
        except (ObjectNotFound, CheckpointCorruptError, UnsupportedFormat):
            return None

    async def listing_of(self, head: Record, known: Listing | None = None) -> Listing:
        """What `head` lists, whether or not it still is the head; what is `known` is not read again."""
        found: dict[int, Record | StorageError | CheckpointCorruptError] = {}
        if known is not None:
            found = {record.slot: record for record in known.records if record.slot in head.live}
        found |= await self._decoded([slot for slot in head.live if slot != head.slot and slot not in found])
        if head.slot in head.live:
            found[head.slot] = head
        records = [r for r in found.values() if isinstance(r, Record) and r.checkpoint is not None]
        lost = {slot: _as_damage(e) for slot, e in found.items() if isinstance(e, Exception)}
        return Listing(head, tuple(sorted(records, key=_seq)), lost, judge=self.monitor)

    async def _decoded(self, slots: Sequence[int]) -> dict[int, Record | StorageError | CheckpointCorruptError]:
        """The records in `slots`, or what is wrong with each.

        Raises a `StorageError` that says nothing about the record: the listing would be wrong without it.
        """
        keys = await self.commits.keys(slots)
        data = await self.storage.get_each(keys)
        for entry in data:
            if isinstance(entry, StorageError) and not isinstance(entry, ObjectNotFound):
                raise entry
        return await asyncio.to_thread(lambda: dict(map(self._outcome, slots, keys, data)))

    def _outcome(
        self, slot: int, key: str, entry: memoryview | StorageError
    ) -> tuple[int, Record | StorageError | CheckpointCorruptError]:
        try:
            return slot, entry if isinstance(entry, StorageError) else self._record(slot, key, entry)
        except CheckpointCorruptError as error:
            return slot, error

    async def manifest(self, checkpoint: Checkpoint) -> Manifest:
        """The checkpoint's manifest; raises `CheckpointCorruptError` if it is not what was committed.

        Raises `KeyUnavailable` if it is encrypted with a key that is not here, and `NotEncrypted`.
        """
        found = await self._manifest(checkpoint, manifests.decode)
        if found.contents.hidden != PLAIN.word:
            await self._check_run(checkpoint, found)
        elif self._only_encrypted:
            raise NotEncrypted(
                f"the checkpoint of step {checkpoint.step} in {self.storage.url} is not encrypted, and only such are "
                "read here, since anybody who can write to the store may have put it there. If it is from before this "
                "run was encrypted, read it with SavePolicy(accept_plain=True), or load() without only_encrypted"
            )
        return found

    async def shown(self, checkpoint: Checkpoint) -> Manifest:
        """The checkpoint's manifest as far as that takes no key; raises as `manifest` does, but for that."""
        return await self._manifest(checkpoint, manifests.decode_shown)

    async def _check_run(self, checkpoint: Checkpoint, found: Manifest) -> None:
        """Raise `CheckpointCorruptError` if it was moved here from another run with the same key."""
        if found.run != self._id:  # or that was not asked for yet
            run = await self.run()
            if run is None or found.run != run.id:
                here = "no run" if run is None else f"run {run.id}"
                raise CheckpointCorruptError(
                    f"{self.storage.url}/{checkpoint.manifest.key} is of run {found.run}, and this is {here}"
                )

    async def _manifest(self, checkpoint: Checkpoint, decode: Callable[[memoryview, str], Manifest]) -> Manifest:
        ref = checkpoint.manifest
        what = f"{self.storage.url}/{ref.key}"
        with readable(what):
            data = await self.storage.get(ref.key)
        if len(data) != ref.length:
            raise CheckpointCorruptError(f"{what} has {len(data)} bytes instead of {ref.length}")
        found = decode(data, what)
        if sealed_digest(data) != ref.digest:
            raise CheckpointCorruptError(f"{what} is not the manifest that was committed")
        # Compared as values, and not by the key that they would make: they may be anything.
        own = DataDirectory(found.seq, found.step, found.inc, found.nonce), found.step, found.world, found.seq
        if own != (names.directory_of(ref.key), checkpoint.step, checkpoint.world, checkpoint.seq):
            raise CheckpointCorruptError(f"{what} is the manifest of another checkpoint")
        return found

    async def is_listed(self, checkpoint: Checkpoint) -> bool:
        """Whether the present head still lists the checkpoint: after a failed read, pruned is not damaged."""
        listing = await self.listing_for(f"{checkpoint.seq}")
        return any(c.seq == checkpoint.seq for c in listing.checkpoints)

    async def _retried(self, look: Callable[[], Awaitable[_T]]) -> _T:
        for _ in range(ATTEMPTS):
            try:
                return await look()
            except ObjectNotFound:
                await asyncio.sleep(0)
        raise RunContended(f"{self.storage.url}: records kept vanishing while they were read; try again")


def _seq(entry: Record) -> int:
    return entry.checkpoint.seq if entry.checkpoint else -1


def _way_around(url: str, on_record: Sequence[Checkpoint]) -> str:
    """What can be read of a run without its head."""
    if not on_record:
        return "No other record tells of a checkpoint"
    ids = [f"{checkpoint.seq:08d}" for checkpoint in on_record]
    return (
        f"Until then checkpoints can be read by id, as with asyncckpt.load({url!r}, {ids[-1]!r}) or asyncckpt show "
        f"{url}@{ids[-1]}; on record are {'..., ' if len(ids) > 10 else ''}{', '.join(ids[-10:])}"
    )


def _as_damage(error: Exception) -> CheckpointCorruptError:
    if isinstance(error, CheckpointCorruptError):
        return error
    return CheckpointCorruptError(f"a live commit record is missing: {error}")
