"""Sweep: removing what no live record names. Plan first, then carry out.

Deleting what became unreachable is safe for ever, for anyone, however late: a commit may only name packs that
are its own or that the record right before it names. So a sweep needs no lock; it only must not touch data of
its own or a newer incarnation, which may be on its way to a record.

Where checkpoints are brought from another tier (in every tier that is not home, and in a home with a local tier) a
commit may also name what was brought there by an earlier incarnation that came to no record. That is above all that is
listed there: so a sweep leaves that alone, and the next one after a commit has it.

Whoever has not taken the run can sweep too, and disturbs nobody, by what follows from this: what is of an incarnation
below the head's and named by nothing that the head lists will be named by nothing. From there more is left alone than
a writer would leave: see `Outside`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.commits import Fenced
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.errors import CheckpointCorruptError, StorageError
from asyncckpt.format import names
from asyncckpt.format.findings import Finding, finding_of
from asyncckpt.format.marks import USER, Mark, is_drop, mark_of
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.storage.base import Storage, UploadInfo
from asyncckpt.worker.commitlog.home import number_of
from asyncckpt.worker.commitlog.listed import Listed


class View(Protocol):
    """A run as who sweeps it sees it: its writer, or somebody `Outside`."""

    @property
    def catalog(self) -> Catalog: ...

    @property
    def head(self) -> Record: ...

    @property
    def listed(self) -> Listed: ...

    @property
    def lost(self) -> Mapping[int, CheckpointCorruptError]:
        """Live slots whose record is damaged."""
        ...

    @property
    def inc(self) -> int:
        """What is of a lower incarnation, and not listed, is nobody's."""
        ...

    @property
    def opened(self) -> int:
        """All slots up to this one are taken."""
        ...

    @property
    def before(self) -> tuple[int, ...]:
        """Slots whose records may be looked at."""
        ...

    @property
    def first_seq(self) -> int:
        """What has a lower sequence number, and is not listed, never will be."""
        ...

    @property
    def is_alone(self) -> bool:
        """Whether nobody else may be writing what is written over and over: hints, marks, probes."""
        ...


@dataclass(frozen=True, slots=True)
class Outside:
    """The view of somebody who has not taken the run.

    Where its last writer has closed it, everything is swept that the next start would sweep. Where that may live, what
    is of its incarnation stays, and whatever it may be writing or bringing from another tier.
    """

    catalog: Catalog
    head: Record
    listed: Listed
    lost: Mapping[int, CheckpointCorruptError]
    before: tuple[int, ...]
    is_alone: bool

    @property
    def inc(self) -> int:
        """See `View.inc`."""
        return self.head.inc + 1 if self.is_alone else self.head.inc

    @property
    def opened(self) -> int:
        """See `View.opened`."""
        return self.head.slot

    @property
    def first_seq(self) -> int:
        """See `View.first_seq`: numbers are given out before they are listed, and listed in order."""
        return self.head.next_seq if self.is_alone else max((c.seq for c in self.listed), default=0)


async def seen_outside(catalog: Catalog, listing: Listing, head: Record, *, is_alone: bool) -> Outside:
    """The view from outside on `listing`, which is that of `head`, the newest record."""
    log = catalog.commits
    if isinstance(log, Fenced):
        # Claims and unconfirmed records too; but none of the incarnation that may live.
        limit = head.slot if is_alone else head.inc * names.NUMBERS
        slots = {name.slot for name, _ in await log.names() if name.slot < limit}
    else:
        slots = {slot for slot in await log.slots() if slot < head.slot}
    return Outside(catalog, head, Listed(listing.records), dict(listing.lost), tuple(sorted(slots)), is_alone)


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What goes: objects in the order of deletion, unfinished puts; and what nobody can place (stays)."""

    keys: tuple[str, ...]
    uploads: tuple[UploadInfo, ...]
    unknown: tuple[str, ...]
    unfinished: tuple[str, ...] = ()
    """Whose saves those are that came after all that is listed: a step and an incarnation each."""
    hidden: StorageError | None = None
    """Why unfinished puts could not be found, where the store does not let everybody ask for them."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Of what goes, in bytes; of records nobody has asked."""


def needed(checkpoints: Iterable[Checkpoint]) -> tuple[frozenset[str], frozenset[str]]:
    """The packs that `checkpoints` name, and the folders that hold their manifests and reports."""
    packs, folders = set(), set()
    for checkpoint in checkpoints:
        packs |= {pack.key for pack in checkpoint.packs}
        folders.add(checkpoint.folder)
    return frozenset(packs), frozenset(folders)


async def plan_sweep(view: View, *, is_supplied: bool = False) -> SweepPlan:
    """What earlier incarnations left: planned before the first own save, so that nothing of it can be own."""
    storage = view.catalog.storage
    newest = max(map(number_of, view.listed), default=(0, 0))
    packs, folders = needed(view.listed)
    doomed: dict[str, int] = {}
    unknown: list[str] = []
    if not view.lost:  # a damaged record may be the only name of good data: then data stays
        async for found in storage.list(names.DATA):
            owner = names.directory_of(found.key)
            if owner is None:
                unknown.append(found.key)
            elif is_supplied and (owner.inc, owner.seq) > newest:
                continue
            elif owner.inc < view.inc and not (found.key in packs or _described(found.key, folders)):
                doomed[found.key] = found.length
    async for found in storage.list(USER):
        mark, finding = mark_of(found.key), finding_of(found.key)
        if names.is_probe(found.key) or _is_of_nothing(mark or finding, view):
            doomed[found.key] = found.length
        elif mark is None and finding is None and not is_drop(found.key):
            unknown.append(found.key)
    records = await view.catalog.commits.removable(s for s in view.before if s not in view.head.live)
    uploads, foreign, hidden = await _left_uploads(view, newest)
    keys, unfinished = tuple(_packs_first(doomed)) + tuple(records), _unfinished(doomed, uploads, view)
    return SweepPlan(keys, tuple(uploads), (*unknown, *foreign), unfinished, hidden, doomed)


async def _left_uploads(view: View, newest: tuple[int, int]) -> tuple[list[UploadInfo], list[str], StorageError | None]:
    """Those that nobody will finish, those that nobody can place, and why no more were found."""
    dead: list[UploadInfo] = []
    foreign: list[str] = []
    try:
        async for upload in view.catalog.storage.uploads():
            is_dead = _is_dead(upload, view, newest)
            if is_dead:
                dead.append(upload)
            elif is_dead is None and not upload.key.endswith("/"):  # an empty folder is nobody's loss, and no put
                foreign.append(f"the unfinished put of {upload.key}")
    except StorageError as error:  # to list them is a right of its own; objects that were left are deleted all the same
        return dead, foreign, error
    return dead, foreign, None


def _unfinished(doomed: Iterable[str], uploads: Iterable[UploadInfo], view: View) -> tuple[str, ...]:
    newest = max((checkpoint.seq for checkpoint in view.listed), default=0)
    owners = map(names.directory_of, [*doomed, *(upload.key for upload in uploads)])
    found = {(owner.seq, owner.step, owner.inc) for owner in owners if owner is not None and owner.seq > newest}
    return tuple(dict.fromkeys(f"step {step} of incarnation {inc}" for _, step, inc in sorted(found)))


def _is_of_nothing(said: Mark | Finding | None, view: View) -> bool:
    """Whether what was said is of a checkpoint that is not listed any more, and never will be."""
    if said is None or view.lost or said.seq >= view.first_seq:
        return False
    if said.seq not in view.listed:
        return True
    checkpoint = view.listed.record(said.seq).checkpoint
    return isinstance(said, Finding) and checkpoint is not None and said != Finding.of(checkpoint)


def _described(key: str, folders: frozenset[str]) -> bool:
    """Whether `key` is the manifest or a report of a live checkpoint; a pack must be named to stay."""
    return not names.is_pack(key) and key.rsplit("/", 1)[0] in folders


def _is_dead(upload: UploadInfo, view: View, newest: tuple[int, int]) -> bool | None:
    """Whether nobody will finish it; None for what is not ours: another run, or anything, may be below this root."""
    owner = names.directory_of(upload.key)
    if owner is not None:
        # What is newer than all that is listed may be on its way from another tier.
        return owner.inc < view.inc and (view.is_alone or (owner.inc, owner.seq) < newest)
    fenced = names.fenced_of(upload.key)
    if fenced is not None:
        return fenced[0].inc < view.inc
    slot = names.slot_of(upload.key)
    if slot is not None:
        return slot <= view.opened  # a put for a slot that is taken can only fail
    # Hints and what users say are written again, the run file is there, and an empty folder is made anew.
    return view.is_alone if upload.key in _AGAIN or names.is_probe(upload.key) or _is_said(upload.key) else None


_HINTS = (names.LATEST, names.BEST)
_AGAIN = {names.RUN, *_HINTS, *map(names.link, _HINTS), names.PREEMPTIONS, names.COMMITS, USER}


def _is_said(key: str) -> bool:
    return mark_of(key) is not None or finding_of(key) is not None or is_drop(key)


def _packs_first(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: (not names.is_pack(key), key))


async def carry_out(plan: SweepPlan, storage: Storage) -> int:
    """Delete what `plan` names; returns how many objects and unfinished puts that were."""
    await storage.delete(plan.keys)
    for upload in plan.uploads:
        await storage.abort(upload)
    return len(plan.keys) + len(plan.uploads)


async def unreachable(storage: Storage, dropped: Iterable[Checkpoint], named: Container[str]) -> list[str]:
    """What dropping checkpoints made unreachable, packs first; their records are the caller's to add.

    `named` are the packs that listed checkpoints name.
    """
    keys: list[str] = []
    for checkpoint in dropped:
        folder = checkpoint.folder
        keys += [o.key async for o in storage.list(folder + "/") if o.key not in named]
        keys += [pack.key for pack in checkpoint.packs if pack.key not in named]
    return list(dict.fromkeys(_packs_first(keys)))
