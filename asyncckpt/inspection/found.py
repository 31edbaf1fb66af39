"""Found: one checkpoint with all that its record and its manifest say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Checkpoint, PackUse, Record
from asyncckpt.inspection.contents import Contents, Tensor
from asyncckpt.inspection.following import unless_removed
from asyncckpt.inspection.summary import Summary, summaries


@dataclass(frozen=True, slots=True)
class Found:
    """One checkpoint with its record and its contents."""

    summary: Summary
    record: Record
    checkpoint: Checkpoint
    contents: Contents
    damage: Damage | None = None
    """What somebody has found damaged."""

    @property
    def folder(self) -> str:
        """The key under which everything of its own lies."""
        return self.checkpoint.folder

    @property
    def shared(self) -> int:
        """Bytes that it did not write, since an older checkpoint had."""
        return sum(pack.live for pack in self.checkpoint.packs if not self.is_own(pack))

    def is_own(self, pack: PackUse) -> bool:
        """Whether the pack was written for this checkpoint, and is not shared with an older one."""
        return pack.key.startswith(f"{self.folder}/")


async def read(catalog: Catalog, listing: Listing, checkpoint: Checkpoint) -> Found:
    """Everything about `checkpoint`; raises `CheckpointCorruptError`, or `CheckpointNotFoundError` if it is removed."""
    summary = next(summary for summary in summaries(listing) if summary.info.seq == checkpoint.seq)
    record = next(record for record in listing.records if record.checkpoint is checkpoint)
    damage = await catalog.damage(Finding.of(checkpoint)) if summary.info.damaged else None
    async with unless_removed(catalog, checkpoint):
        return Found(summary, record, checkpoint, Contents(await catalog.manifest(checkpoint)), damage)


def json_of(found: Found, tensors: list[Tensor]) -> dict[str, Any]:
    """As one JSON object, with those `tensors`."""
    checkpoint, record = found.checkpoint, found.record
    return {
        **found.summary.json(),
        "run": found.contents.manifest.run,
        "incarnation": record.inc,
        "parent": checkpoint.parent,
        "world": checkpoint.world,
        "monitor": list(checkpoint.monitor) if checkpoint.monitor else None,
        "slot": record.slot,
        "writer": {"host": record.writer.host, "pid": record.writer.pid, "nonce": record.writer.nonce},
        "folder": found.folder,
        "shared": found.shared,
        "lacks": list(checkpoint.partial),
        "damage": _damage_json(found.damage),
        "manifest": {"key": checkpoint.manifest.key, "length": checkpoint.manifest.length},
        "packs": [{"key": p.key, "length": p.length, "live": p.live, "own": found.is_own(p)} for p in checkpoint.packs],
        "components": [component.json() for component in found.contents.components()],
        "tensors": [tensor.json() for tensor in tensors],
        "values": [value.json() for value in found.contents.values()],
    }


def _damage_json(damage: Damage | None) -> dict[str, Any] | None:
    if damage is None:
        return None
    return {"kind": damage.kind, "reason": damage.reason, "found": damage.found / 1e6, "by": damage.author}
