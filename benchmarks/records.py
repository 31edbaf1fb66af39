"""Records: a run of many checkpoints, made from the records, manifests and packs of one real save.

Saving 10,000 times would take longer than all that is measured on them. What comes out is what the writer would
have left: every checkpoint loads.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.format import names
from asyncckpt.format.contents import Pack
from asyncckpt.format.manifest import Manifest
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.record import Checkpoint, ObjectRef, PackUse, Record
from asyncckpt.format.sealed import seal, sealed_digest
from asyncckpt.format.slots import Slots
from asyncckpt.storage.local import LocalStorage


def model() -> torch.nn.Module:
    """What the checkpoints hold."""
    return torch.nn.Linear(64, 1)


def make_run(root: Path, count: int) -> None:
    """A run of `count` checkpoints at `root`, of steps 1 to `count`, a second from one to the next."""
    with AsyncCheckpointer(root, model=model()) as checkpointer:
        checkpointer.save(1)
    asyncio.run(_extend(root, count))


async def _extend(root: Path, count: int) -> None:
    storage = LocalStorage(root)
    catalog = Catalog(storage)
    listing = await catalog.listing()
    head, [checkpoint] = listing.head, listing.checkpoints
    assert head is not None
    manifest = await catalog.manifest(checkpoint)
    await storage.aclose()
    packs = [(root / pack.key).read_bytes() for pack in manifest.contents.packs]
    for seq in range(checkpoint.seq + 1, count + 1):
        directory = DataDirectory(seq, seq, head.inc, f"{seq:08x}")
        then = replace(checkpoint, created=checkpoint.created - (count - seq) * 1_000_000)
        head = _written(root, head, _copied(root, then, manifest, packs, directory))
    # The hint that every save leaves.
    (root / names.LATEST).write_bytes(seal({"slot": head.slot, "seq": count, "step": count}))


def _copied(
    root: Path, checkpoint: Checkpoint, manifest: Manifest, packs: list[bytes], directory: DataDirectory
) -> Checkpoint:
    """Write packs and manifest of a checkpoint like `checkpoint` into `directory`."""
    (root / directory.key).mkdir()
    moved = tuple(replace(p, key=_pack(directory, n)) for n, p in enumerate(manifest.contents.packs))
    for pack, content in zip(moved, packs, strict=True):
        (root / pack.key).write_bytes(content)
    contents = replace(manifest.contents, packs=moved)
    own = replace(manifest, seq=directory.seq, step=directory.step, nonce=directory.nonce, contents=contents)
    data = own.encode()
    (root / directory.manifest).write_bytes(data)
    return replace(
        checkpoint,
        seq=directory.seq,
        step=directory.step,
        parent=directory.seq - 1,
        manifest=ObjectRef(directory.manifest, len(data), sealed_digest(data)),
        packs=tuple(_use(pack, use) for pack, use in zip(moved, checkpoint.packs, strict=True)),
    )


def _pack(directory: DataDirectory, number: int) -> str:
    return directory.pack(0, 1, number)


def _use(pack: Pack, use: PackUse) -> PackUse:
    return replace(use, key=pack.key)


def _written(root: Path, head: Record, checkpoint: Checkpoint) -> Record:
    """Write the record that commits `checkpoint` after `head`."""
    record = replace(
        head,
        kind="checkpoint",
        slot=head.slot + 1,
        previous=(head.slot, head.digest),
        live=Slots.of((*head.live, head.slot + 1)),
        latest=checkpoint.seq,
        latest_slot=head.slot + 1,
        next_seq=checkpoint.seq + 1,
        checkpoint=checkpoint,
        removed=(),
    )
    data = record.encode()
    (root / names.record_key(record.slot)).write_bytes(data)
    return replace(record, digest=sealed_digest(data))
