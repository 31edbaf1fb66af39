"""Describing: the manifest of one save, and what its record will say."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from asyncckpt.format.manifest import Contents, Manifest
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.record import Checkpoint, ObjectRef, PackUse
from asyncckpt.format.sealed import sealed_digest
from asyncckpt.retention import Monitor
from asyncckpt.storage.base import Storage
from asyncckpt.worker.job import SaveJob
from asyncckpt.worker.writer import Writer


async def describe(
    job: SaveJob,
    writer: Writer,
    directory: DataDirectory,
    contents: Contents,
    storage: Storage,
    monitor: Monitor | None,
    threads: Executor,
) -> Checkpoint:
    """Write the manifest of `contents`, which are durable in `directory`; returns what the record will say."""
    manifest = Manifest(
        writer.run.id,
        directory.seq,
        job.step,
        writer.inc,
        directory.nonce,
        job.world,
        contents,
        job.code_version,
        job.partial,
    )
    data = await asyncio.get_running_loop().run_in_executor(threads, manifest.encode)
    await storage.put(directory.manifest, [data], length=len(data))
    return Checkpoint(
        seq=directory.seq,
        step=job.step,
        epoch=job.epoch,
        world=job.world,
        parent=writer.parent if job.parent is None else job.parent,
        created=job.created,
        metrics=job.metrics,
        manifest=ObjectRef(directory.manifest, len(data), sealed_digest(data)),
        packs=_uses(contents),
        code_version=job.code_version,
        monitor=monitor,
        partial=job.partial,
    )


def _uses(contents: Contents) -> tuple[PackUse, ...]:
    live = [0] * len(contents.packs)
    for entry in contents.tensors.values():
        for box in entry.boxes:
            for extent in box.extents:
                live[extent.pack] += extent.length
    return tuple(PackUse(p.key, p.length, n) for p, n in zip(contents.packs, live, strict=True))
