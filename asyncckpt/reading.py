"""Reading: a checkpoint's bytes, fetched in merged ranges, several at a time, every digest checked.

Neighbouring extents of one pack are one request (a span), so that 20,000 small tensors cost a handful of reads;
what little lies between two of them, because a checkpoint does not share it, is read in vain. The bytes of a tensor
are a view into its span: nothing is copied between the store and whoever asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from asyncckpt.catalog import Catalog
from asyncckpt.damage import readable
from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.digest import digest
from asyncckpt.format.manifest import EXTENT, Contents, Extent, Pack, Path
from asyncckpt.format.record import Checkpoint
from asyncckpt.format.shard import ALIGNMENT, decode_header
from asyncckpt.storage.base import Storage
from asyncckpt.storage.room import room

_T = TypeVar("_T")

CONCURRENT_SPANS = 4
"""Requests in flight: on the disks measured four saturate it, and each holds at most one span of memory."""


GAP = 256 << 10
"""Bytes read in vain rather than make another request: about what a disk delivers in the time of one."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """One extent with the path it belongs to."""

    path: Path
    extent: Extent


@dataclass(frozen=True, slots=True)
class Span:
    """Extents of one pack that lie close together, read with one request."""

    pack: Pack
    pieces: tuple[_Piece, ...]

    @property
    def start(self) -> int:
        return self.pieces[0].extent.offset

    @property
    def length(self) -> int:
        return self.pieces[-1].extent.offset + self.pieces[-1].extent.length - self.start


def spans(contents: Contents, paths: Collection[Path] | None = None) -> list[Span]:
    """The requests that fetch the tensors at `paths` (all of them where None), in file order."""
    by_pack: dict[int, list[_Piece]] = {}
    for path, entry in contents.tensors.items():
        if paths is None or path in paths:
            for box in entry.boxes:
                for extent in box.extents:
                    by_pack.setdefault(extent.pack, []).append(_Piece(path, extent))
    return [
        Span(contents.packs[number], run)
        for number in sorted(by_pack)
        for run in _runs(sorted(by_pack[number], key=lambda piece: piece.extent.offset))
    ]


def _runs(pieces: Iterable[_Piece]) -> Iterator[tuple[_Piece, ...]]:
    run: list[_Piece] = []
    end = size = 0
    for piece in pieces:
        # A tensor is never split over two spans: its bytes must end up side by side in memory.
        full = size >= EXTENT and run and piece.path != run[-1].path
        if run and (full or not end <= piece.extent.offset <= end + GAP):
            yield tuple(run)
            run, size = [], 0
        run.append(piece)
        end = piece.extent.offset + piece.extent.length
        size = end - run[0].extent.offset
    if run:
        yield tuple(run)


async def fetch(
    storage: Storage,
    contents: Contents,
    paths: Collection[Path] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Path, memoryview]:
    """The bytes of the tensors at `paths`, aligned for their element size, each writable and private.

    `progress` is told the bytes of each finished request. Raises `CheckpointCorruptError` naming tensor and
    pack if anything is missing, unreadable or not what its digest says; then nothing is returned. Raises `StorageError`
    if the store cannot be read.
    """
    found: dict[Path, memoryview] = {}

    async def one(span: Span) -> None:
        found.update(await _read(storage, span))
        if progress is not None:
            progress(sum(piece.extent.length for piece in span.pieces))

    await _several(one, spans(contents, paths))
    return found


async def check_packs(storage: Storage, contents: Contents, paths: Collection[Path]) -> None:
    """Check length and header of every pack that the tensors at `paths` lie in.

    Digests of extents do not cover them, and yet a later save may share the pack. Raises as `fetch` does.
    """
    boxes = (box for path in paths for box in contents.tensors[path].boxes)
    used = {extent.pack for box in boxes for extent in box.extents}
    await _several(lambda number: _verify_pack(storage, contents.packs[number]), sorted(used))


async def _several(act: Callable[[_T], Awaitable[None]], items: Iterable[_T]) -> None:
    """`act` on each, a few at a time; what the first failure raises ends the others."""
    limit = asyncio.Semaphore(CONCURRENT_SPANS)

    async def one(item: _T) -> None:
        async with limit:
            await act(item)

    try:
        async with asyncio.TaskGroup() as tasks:
            for item in items:
                tasks.create_task(one(item))
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
        raise first from first.__cause__


async def _read(storage: Storage, span: Span) -> dict[Path, memoryview]:
    buffer = _aligned(span)
    what = f"{storage.url}/{span.pack.key}"
    with readable(what):
        await storage.get(span.pack.key, start=span.start, length=span.length, into=buffer)
    return await asyncio.to_thread(_checked, span, buffer, what)


def check_digest(found: str, what: str, path: Path, extent: Extent) -> None:
    """Raise `CheckpointCorruptError` unless `found` is the digest that the tensor at `path` has in `extent`."""
    if found != extent.digest:
        raise CheckpointCorruptError(f"{what}: {'.'.join(path)} does not match its digest at byte {extent.offset}")


def _aligned(span: Span) -> memoryview:
    # The file offset is kept modulo the page size, so that tensors aligned in the pack are so in memory.
    shift = span.start % ALIGNMENT
    return memoryview(room(shift + span.length))[shift:]


def _checked(span: Span, buffer: memoryview, what: str) -> dict[Path, memoryview]:
    found: dict[Path, tuple[int, int]] = {}
    for piece in span.pieces:
        at = piece.extent.offset - span.start
        end = at + piece.extent.length
        check_digest(digest(buffer[at:end]), what, piece.path, piece.extent)
        found[piece.path] = (found.get(piece.path, (at, at))[0], end)
    return {path: buffer[at:end] for path, (at, end) in found.items()}


async def verify(
    catalog: Catalog,
    checkpoint: Checkpoint,
    *,
    full: bool = True,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Check a checkpoint: lengths and headers of its packs, and with `full` every byte of its tensors.

    `progress` is told the bytes of each finished request. Raises `CheckpointCorruptError` naming the first thing that
    is wrong, and `StorageError` if the store cannot be read.
    """
    manifest = await catalog.manifest(checkpoint)
    for pack in manifest.contents.packs:
        await _verify_pack(catalog.storage, pack)
    if full:
        for span in spans(manifest.contents):
            await _read(catalog.storage, span)
            progress(sum(piece.extent.length for piece in span.pieces))


async def _verify_pack(storage: Storage, pack: Pack) -> None:
    what = f"{storage.url}/{pack.key}"
    with readable(what):
        found = await storage.head(pack.key)
    if found is None or found.length != pack.length:
        state = "is missing" if found is None else f"has {found.length} bytes instead of {pack.length}"
        raise CheckpointCorruptError(f"{what} {state}", "missing" if found is None else "content")
    with readable(what):
        header = await storage.get(pack.key, length=pack.header)
    if digest(header) != pack.digest:
        raise CheckpointCorruptError(f"{what}: its header does not match its digest")
    decode_header(header, pack.length, what)
