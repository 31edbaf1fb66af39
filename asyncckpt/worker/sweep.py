"""Sweep: removing what no live record names. Plan first, then carry out.

Deleting what became unreachable is safe for ever, for anyone, however late: a commit may only name packs that
are its own or that the record right before it names. So a sweep needs no lock; it only must not touch data of
its own or a newer incarnation, which may be on its way to a record.

Where checkpoints are brought from another tier (in every tier that is not home, and in a home with a local tier) a
commit may also name what was brought there by an earlier incarnation that came to no record. That is above all that is
listed there: so a sweep leaves that alone, and the next one after a commit has it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from asyncckpt.format import names
from asyncckpt.format.findings import Finding, finding_of
from asyncckpt.format.marks import USER, Mark, is_drop, mark_of
from asyncckpt.format.record import Checkpoint
from asyncckpt.storage.base import Storage, UploadInfo
from asyncckpt.worker.home import number_of
from asyncckpt.worker.writer import Writer


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What goes: objects in the order of deletion, unfinished puts; and what nobody can place (stays)."""

    keys: tuple[str, ...]
    uploads: tuple[UploadInfo, ...]
    unknown: tuple[str, ...]


def needed(checkpoints: Iterable[Checkpoint]) -> tuple[frozenset[str], frozenset[str]]:
    """The packs that `checkpoints` name, and the folders that hold their manifests and reports."""
    packs, folders = set(), set()
    for checkpoint in checkpoints:
        packs |= {pack.key for pack in checkpoint.packs}
        folders.add(checkpoint.folder)
    return frozenset(packs), frozenset(folders)


async def plan_sweep(writer: Writer, *, is_supplied: bool = False) -> SweepPlan:
    """What earlier incarnations left: planned before the first own save, so that nothing of it can be own."""
    storage = writer.catalog.storage
    newest = max(map(number_of, writer.checkpoints), default=(0, 0))
    packs, folders = needed(writer.checkpoints)
    doomed, unknown = [], []
    if not writer.lost:  # a damaged record may be the only name of good data: then data stays
        async for found in storage.list(names.DATA):
            owner = names.directory_of(found.key)
            if owner is None:
                unknown.append(found.key)
            elif is_supplied and (owner.inc, owner.seq) > newest:
                continue
            elif owner.inc < writer.inc and not (found.key in packs or _described(found.key, folders)):
                doomed.append(found.key)
    async for found in storage.list(USER):
        mark, finding = mark_of(found.key), finding_of(found.key)
        if mark is None and finding is None and not is_drop(found.key):
            unknown.append(found.key)
        elif _is_of_nothing(mark or finding, writer):
            doomed.append(found.key)
    records = await writer.catalog.commits.removable(s for s in writer.before if s not in writer.head.live)
    uploads = [u async for u in storage.uploads() if _is_dead(u, writer)]
    return SweepPlan(tuple(_packs_first(doomed)) + tuple(records), tuple(uploads), tuple(unknown))


def _is_of_nothing(said: Mark | Finding | None, writer: Writer) -> bool:
    """Whether what was said is of a checkpoint that is not listed any more, and never will be."""
    if said is None or writer.lost or said.seq >= writer.first_seq:
        return False
    if said.seq not in writer.listed:
        return True
    checkpoint = writer.listed.record(said.seq).checkpoint
    return isinstance(said, Finding) and checkpoint is not None and said != Finding.of(checkpoint)


def _described(key: str, folders: frozenset[str]) -> bool:
    """Whether `key` is the manifest or a report of a live checkpoint; a pack must be named to stay."""
    return not key.endswith(".safetensors") and key.rsplit("/", 1)[0] in folders


def _is_dead(upload: UploadInfo, writer: Writer) -> bool:
    owner = names.directory_of(upload.key)
    if owner is not None:
        return owner.inc < writer.inc
    fenced = names.fenced_of(upload.key)
    if fenced is not None:
        return fenced[0].inc < writer.inc
    slot = names.slot_of(upload.key)
    # A put for a slot that is taken can only fail. Hints and the run file are rewritten or already there.
    return slot <= writer.opened if slot is not None else not upload.key.startswith(names.DATA)


def _packs_first(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: (not key.endswith(".safetensors"), key))


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
