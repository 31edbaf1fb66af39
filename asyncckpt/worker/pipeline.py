"""Pipeline: from arena to packs. Digest and write follow the watermark side by side, both off the GIL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor

from asyncckpt.format.digest import digest
from asyncckpt.format.manifest import EXTENT, Box, Contents, Extent, Pack, Path, TensorEntry
from asyncckpt.format.names import DataDirectory
from asyncckpt.storage.base import Storage
from asyncckpt.worker.job import PlannedPack, PlannedTensor, SaveJob
from asyncckpt.worker.watermark import Watermark

CHUNK = 16 << 20
"""Bytes handed to the store at once: 4 to 64 MiB wrote equally fast here, and the first follows soon."""


async def write_packs(
    job: SaveJob,
    view: memoryview,
    watermark: Watermark,
    storage: Storage,
    directory: DataDirectory,
    threads: Executor,
) -> Contents:
    """Write the job's packs into `directory` and digest them; returns what they hold once all are durable.

    `view` is the arena, `threads` where waiting and digesting happen. On any failure the other half is told to
    stop and nothing is left visible but packs of a directory that no record will ever name.
    """
    loop = asyncio.get_running_loop()
    digests = loop.run_in_executor(threads, _digest, job, view, watermark)
    puts = [
        asyncio.ensure_future(_put(pack, job, number, view, watermark, storage, directory, threads))
        for number, pack in enumerate(job.layout.packs)
    ]
    try:
        await asyncio.gather(*puts)
        return _contents(job, directory, *await digests)
    except BaseException:
        watermark.leave()
        for put in puts:
            put.cancel()
        await asyncio.gather(digests, *puts, return_exceptions=True)
        raise


async def _put(
    pack: PlannedPack,
    job: SaveJob,
    number: int,
    view: memoryview,
    watermark: Watermark,
    storage: Storage,
    directory: DataDirectory,
    threads: Executor,
) -> None:
    key = directory.pack(job.rank, job.world, number)
    await storage.put(key, _chunks(pack, view, watermark, threads), length=pack.length)


async def _chunks(
    pack: PlannedPack, view: memoryview, watermark: Watermark, threads: Executor
) -> AsyncIterator[memoryview]:
    end = pack.start + pack.length
    for start in range(pack.start, end, CHUNK):
        stop = min(start + CHUNK, end)
        if watermark.reached < stop:
            await asyncio.get_running_loop().run_in_executor(threads, watermark.wait, stop)
        yield view[start:stop]


def _digest(job: SaveJob, view: memoryview, watermark: Watermark) -> tuple[list[str], dict[Path, tuple[Extent, ...]]]:
    """Digests of every header and every extent, in file order behind the watermark."""
    headers: list[str] = []
    extents: dict[Path, tuple[Extent, ...]] = {}
    packs = job.layout.packs
    for path, tensor in job.layout.tensors.items():
        extents[path] = tuple(_extents(tensor, packs[tensor.pack], view, watermark))
    for pack in packs:
        watermark.wait(pack.start + pack.header)
        headers.append(digest(view[pack.start : pack.start + pack.header]))
    return headers, extents


def _extents(tensor: PlannedTensor, pack: PlannedPack, view: memoryview, watermark: Watermark) -> list[Extent]:
    found = []
    for start in range(tensor.offset, tensor.offset + tensor.nbytes, EXTENT):
        length = min(EXTENT, tensor.offset + tensor.nbytes - start)
        at = pack.start + start
        if watermark.reached < at + length:
            watermark.wait(at + length)
        found.append(Extent(tensor.pack, start, length, digest(view[at : at + length])))
    return found


def _contents(
    job: SaveJob, directory: DataDirectory, headers: list[str], extents: dict[Path, tuple[Extent, ...]]
) -> Contents:
    packs = tuple(
        Pack(directory.pack(job.rank, job.world, number), pack.length, pack.header, header, job.rank)
        for number, (pack, header) in enumerate(zip(job.layout.packs, headers, strict=True))
    )
    tensors = {
        path: TensorEntry(t.dtype, t.shape, _boxes(t, extents[path]), t.stride)
        for path, t in job.layout.tensors.items()
    }
    return Contents(packs, tensors, job.layout.aliases, job.values)


def _boxes(tensor: PlannedTensor, extents: tuple[Extent, ...]) -> tuple[Box, ...]:
    return (Box((0,) * len(tensor.shape), tensor.shape, extents),)
