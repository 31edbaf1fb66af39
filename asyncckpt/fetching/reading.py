"""Reading: a checkpoint's bytes, fetched in merged ranges, several at a time, every digest checked.

Neighbouring extents of one pack are one request (a span), so that 20,000 small tensors cost a handful of reads;
what little lies between two of them, because a checkpoint does not share it, is read in vain. The bytes of a tensor
are a view into its span: nothing is copied between the store and whoever asked.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.damage import readable
from asyncckpt.errors import CheckpointCorruptError, KeyUnavailable
from asyncckpt.fetching.unpacking import beginning, check_stored, fill
from asyncckpt.format.contents import EXTENT, Contents, Extent, Pack, Path
from asyncckpt.format.digest import digest
from asyncckpt.format.record import Checkpoint
from asyncckpt.format.shard import ALIGNMENT, decode_header
from asyncckpt.storage.base import Storage
from asyncckpt.storage.room import room

_T = TypeVar("_T")

Taken: TypeAlias = tuple[Path, int, memoryview]
"""Bytes of a tensor: whose, from which of its bytes on, and they themselves."""

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

    @property
    def places(self) -> Iterator[tuple[_Piece, int, int]]:
        """Each extent, and between which bytes of the span it lies."""
        for piece in self.pieces:
            at = piece.extent.offset - self.start
            yield piece, at, at + piece.extent.length


def spans(
    contents: Contents,
    paths: Collection[Path] | None = None,
    *,
    whole: bool = True,
    only: Container[Extent] | None = None,
) -> list[Span]:
    """The requests that fetch the tensors at `paths` (all of them where None), or `only` these extents, in file order.

    A tensor is not split over two of them, however large it is, unless it need not be `whole`.
    """
    by_pack: dict[int, list[_Piece]] = {}
    for path, entry in contents.tensors.items():
        if paths is None or path in paths:
            for box in entry.boxes:
                for extent in box.extents:
                    if only is None or extent in only:
                        by_pack.setdefault(extent.pack, []).append(_Piece(path, extent))
    return [
        Span(contents.packs[number], run)
        for number in sorted(by_pack)
        for run in _runs(sorted(by_pack[number], key=lambda piece: piece.extent.offset), whole=whole)
    ]


def _runs(pieces: Iterable[_Piece], *, whole: bool) -> Iterator[tuple[_Piece, ...]]:
    run: list[_Piece] = []
    end = size = 0
    for piece in pieces:
        # The bytes of one that is whole must end up side by side in memory.
        full = size >= EXTENT and run and not (whole and piece.path == run[-1].path)
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


async def stream(
    storage: Storage,
    contents: Contents,
    paths: Collection[Path],
    take: Callable[[Sequence[Taken]], None],
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Give `take` the bytes of the tensors at `paths`, a few extents at a time.

    That is done in a thread, in no particular order, once each digest is right; what was taken is gone afterwards, so
    that no more than a few extents are in memory. Raises as `fetch` does.
    """
    starts: dict[tuple[Path, Extent], int] = {}
    for path in paths:
        at = 0
        for box in contents.tensors[path].boxes:
            for extent in box.extents:
                starts[path, extent] = at
                at += extent.length
    in_turn = threading.Lock()

    async def one(span: Span) -> None:
        buffer, what = await _filled(storage, span)
        await asyncio.to_thread(taken, span, buffer, what)
        progress(sum(piece.extent.length for piece in span.pieces))

    def taken(span: Span, buffer: memoryview, what: str) -> None:
        _checked(span, buffer, what)
        with in_turn:
            take([(piece.path, starts[piece.path, piece.extent], buffer[at:end]) for piece, at, end in span.places])

    await _several(one, spans(contents, paths, whole=False))


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
    return await asyncio.to_thread(_checked, span, *await _filled(storage, span))


async def _filled(storage: Storage, span: Span) -> tuple[memoryview, str]:
    """The bytes of a span as they are stored, and what they are called."""
    buffer = _aligned(span)
    what = f"{storage.url}/{span.pack.key}"
    with readable(what):
        await fill(storage, span.pack, span.start, buffer)
    return buffer, what


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
    for piece, at, end in span.places:
        check_digest(digest(buffer[at:end]), what, piece.path, piece.extent)
        found[piece.path] = (found.get(piece.path, (at, at))[0], end)
    return {path: buffer[at:end] for path, (at, end) in found.items()}


async def verify(
    catalog: Catalog,
    checkpoint: Checkpoint,
    *,
    full: bool = True,
    choose: Callable[[Contents], Container[Extent]] | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Check a checkpoint: lengths and headers of its packs, and with `full` every byte of its tensors.

    Without `full`, the extents that `choose` names are read all the same; nothing of one whose key is not here.
    `progress` is told the bytes of each finished request. Raises `CheckpointCorruptError` naming the first thing that
    is wrong, and `StorageError` if the store cannot be read. Of one that is encrypted with a key that is not here, only
    what is stored can be checked: where that is sound, raises `KeyUnavailable`.
    """
    try:
        manifest = await catalog.manifest(checkpoint)
    except KeyUnavailable:
        await _verify_stored(catalog, checkpoint, full=full, progress=progress)
        raise
    for pack in manifest.contents.packs:
        await _verify_pack(catalog.storage, pack)
    if full or choose is not None:
        chosen = None if full or choose is None else choose(manifest.contents)
        for span in spans(manifest.contents, whole=full, only=chosen):
            await _read(catalog.storage, span)
            progress(sum(piece.extent.length for piece in span.pieces))


async def _verify_stored(
    catalog: Catalog, checkpoint: Checkpoint, *, full: bool, progress: Callable[[int], None]
) -> None:
    for pack in (await catalog.shown(checkpoint)).contents.packs:
        await _verify_length(catalog.storage, pack)
        if full:
            with readable(f"{catalog.storage.url}/{pack.key}"):
                await check_stored(catalog.storage, pack, progress)


async def _verify_length(storage: Storage, pack: Pack) -> None:
    what = f"{storage.url}/{pack.key}"
    with readable(what):
        found = await storage.head(pack.key)
    if found is None or found.length != pack.stored:
        state = "is missing" if found is None else f"has {found.length} bytes instead of {pack.stored}"
        raise CheckpointCorruptError(f"{what} {state}", "missing" if found is None else "content")


async def _verify_pack(storage: Storage, pack: Pack) -> None:
    what = f"{storage.url}/{pack.key}"
    await _verify_length(storage, pack)
    with readable(what):
        header = await beginning(storage, pack)
    if digest(header) != pack.digest:
        raise CheckpointCorruptError(f"{what}: its header does not match its digest")
    decode_header(header, pack.length, what)
