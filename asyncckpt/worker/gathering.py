"""Gathering: a pack made of scattered parts of the arena, by way of one small buffer.

An increment's tensors lie between others in the arena. Writing them from there would be many small unaligned
writes, which no disk takes directly, so they are copied together in front of the write.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from asyncckpt.format.contents import Path
from asyncckpt.format.shard import ALIGNMENT, encode_header
from asyncckpt.storage.direct import address
from asyncckpt.worker.job import Layout

CHUNK = 16 << 20
"""Bytes handed to a store at once: 4 to 64 MiB wrote equally fast here, and the first follows soon."""

_WITHOUT_THE_LOCK = 64 << 10
"""Bytes from which a copy gives the interpreter lock away: getting it back costs more than copying fewer."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes ``[start, end)`` of the arena."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class GatheredPack:
    """A pack of some of the tensors of a layout: its header, the bytes behind it, and where each tensor is in it."""

    header: bytes
    ranges: tuple[Range, ...]
    offsets: dict[Path, int]
    length: int


def gathered(layout: Layout, paths: Iterable[Path]) -> list[GatheredPack]:
    """Packs of the tensors at `paths`, in file order: one for each planned pack that holds some, none for none."""
    members: dict[int, list[Path]] = {}
    chosen = frozenset(paths)
    for path, tensor in layout.tensors.items():
        if path in chosen:
            members.setdefault(tensor.pack, []).append(path)
    return [_pack(layout, members[number]) for number in sorted(members)]


def _pack(layout: Layout, paths: Sequence[Path]) -> GatheredPack:
    header = encode_header([layout.tensors[path].packed for path in paths])
    offsets: dict[Path, int] = {}
    ranges: list[Range] = []
    length = len(header)
    for path in paths:
        tensor = layout.tensors[path]
        offsets[path] = length
        length += tensor.nbytes
        start = layout.packs[tensor.pack].start + tensor.offset
        if ranges and ranges[-1].end == start:
            ranges[-1] = Range(ranges[-1].start, start + tensor.nbytes)
        elif tensor.nbytes:
            ranges.append(Range(start, start + tensor.nbytes))
    return GatheredPack(header, tuple(ranges), offsets, length)


async def chunks(pack: GatheredPack, view: memoryview, threads: Executor) -> AsyncIterator[memoryview]:
    """The bytes of `pack` out of the arena `view`; each chunk is overwritten once the next is asked for."""
    loop = asyncio.get_running_loop()
    to = memoryview(mmap.mmap(-1, min(CHUNK, -(-pack.length // ALIGNMENT) * ALIGNMENT)))
    for parts in _filled(pack, view, len(to)):
        yield to[: await loop.run_in_executor(threads, _copy, parts, to)]


def _filled(pack: GatheredPack, view: memoryview, room: int) -> Iterator[list[memoryview]]:
    """The parts of `pack` in groups that fill `room` bytes, all but the last exactly."""
    group: list[memoryview] = []
    left = room
    for part in (memoryview(pack.header), *(view[r.start : r.end] for r in pack.ranges)):
        at = 0
        while at < len(part):
            group.append(part[at : at + left])
            at += len(group[-1])
            left -= len(group[-1])
            if not left:
                yield group
                group, left = [], room
    if group:
        yield group


def _copy(parts: Iterable[memoryview], to: memoryview) -> int:
    at = 0
    for part in parts:
        if len(part) < _WITHOUT_THE_LOCK:
            to[at : at + len(part)] = part
        else:
            ctypes.memmove(address(to) + at, address(part), len(part))
        at += len(part)
    return at
