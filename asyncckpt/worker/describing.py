"""Describing: the manifest of one save, and what its record will say."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from asyncckpt.format.contents import Contents
from asyncckpt.format.manifest import Manifest
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.record import Checkpoint, ObjectRef, PackUse
from asyncckpt.format.sealed import sealed_digest
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.writer import Writer
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.job import SaveJob


async def describe(
    job: SaveJob,
    writer: Writer,
    directory: DataDirectory,
    contents: Contents,
    storage: Storage,
    config: ServiceConfig,
    threads: Executor,
) -> Checkpoint:
    """Write the manifest of `contents`, which are durable in `directory`; returns what the record will say."""

    def encoded() -> tuple[str | None, bytes]:
        code_version = config.code_version()
        manifest = Manifest(
            writer.run.id,
            directory.seq,
            job.step,
            writer.inc,
            directory.nonce,
            job.world,
            contents,
            code_version,
            job.partial,
        )
        return code_version, manifest.encode()

    # The version waits for git, once, and the encoding of many tensors takes long.
    code_version, data = await asyncio.get_running_loop().run_in_executor(threads, encoded)
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
        code_version=code_version,
        monitor=config.monitor,
        partial=job.partial,
        message=job.message,
    )


def _uses(contents: Contents) -> tuple[PackUse, ...]:
    live = [0] * len(contents.packs)
    for entry in contents.tensors.values():
        for box in entry.boxes:
            for extent in box.extents:
                live[extent.pack] += extent.length
    return tuple(PackUse(p.key, p.stored, n) for p, n in zip(contents.packs, live, strict=True))
