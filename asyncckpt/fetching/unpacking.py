"""Unpacking: the plain bytes of a pack, whatever it is stored with.

A pack that is stored as it is, is read straight to where its bytes belong. Of any other the frames are read that hold
them, a few at a time, and opened in a thread: beside what is asked for it takes the memory of those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncckpt.format.codec import codec_of
from asyncckpt.format.contents import Contents, Pack
from asyncckpt.format.frames import Framer, Frames, check_frame
from asyncckpt.storage.base import Storage
from asyncckpt.storage.threads import settled

FRAMES = 8
"""Most that are read at a time."""


def is_plain(contents: Contents) -> bool:
    """Whether all packs are stored as they are."""
    return all(pack.frames is None for pack in contents.packs)


def is_encrypted(contents: Contents) -> bool:
    """Whether what it says can only be read with a key, and so was said by somebody who had it."""
    return codec_of(contents.hidden).key is not None


async def fill(storage: Storage, pack: Pack, start: int, into: memoryview) -> None:
    """Read the bytes of `pack` from `start` on into all of `into`.

    Raises as the storage does, `CheckpointCorruptError` for a frame that is not what it was, and `KeyUnavailable`.
    """
    if pack.frames is None:
        await storage.get(pack.key, start=start, length=len(into), into=into)
        return
    frames = pack.frames
    framer = await asyncio.to_thread(_framer, pack, frames, f"{storage.url}/{pack.key}")
    for run in frames.runs(start, len(into), FRAMES):
        stored = await _stored(storage, pack, frames, run)
        await settled(asyncio.to_thread(_open, framer, frames, run, stored, start, into))


async def beginning(storage: Storage, pack: Pack) -> memoryview:
    """The header of `pack`; raises as `fill` does."""
    if pack.frames is None:
        return await storage.get(pack.key, length=pack.header)
    header = memoryview(bytearray(pack.header))
    await fill(storage, pack, 0, header)
    return header


async def check_stored(storage: Storage, pack: Pack, progress: Callable[[int], None]) -> None:
    """Check every stored byte of a pack in frames against its digest, for which no key is needed.

    `progress` is told bytes as they were checked. Raises `CheckpointCorruptError`, and as the storage does.
    """
    frames, what = pack.frames, f"{storage.url}/{pack.key}"
    if frames is None:
        return
    for run in frames.runs(0, pack.length, FRAMES):
        stored = await _stored(storage, pack, frames, run)
        await asyncio.to_thread(_check, frames, run, stored, what)
        progress(min(len(run) * frames.size, pack.length - run.start * frames.size))


async def _stored(storage: Storage, pack: Pack, frames: Frames, run: range) -> memoryview:
    start = frames.start(run.start)
    return await storage.get(pack.key, start=start, length=frames.ends[run.stop - 1] - start)


def _framer(pack: Pack, frames: Frames, what: str) -> Framer:
    return Framer(codec_of(pack.codec), pack.key, pack.length, frames.salt, what, frames.size)


def _open(framer: Framer, frames: Frames, run: range, stored: memoryview, start: int, into: memoryview) -> None:
    for number in run:
        at = number * frames.size
        plain = framer.open(number, _frame(frames, run, stored, number), frames.stored[number][1])
        first, end = max(start, at), min(start + len(into), at + len(plain))
        into[first - start : end - start] = plain[first - at : end - at]


def _check(frames: Frames, run: range, stored: memoryview, what: str) -> None:
    for number in run:
        check_frame(number, _frame(frames, run, stored, number), frames.stored[number][1], what)


def _frame(frames: Frames, run: range, stored: memoryview, number: int) -> memoryview:
    first = frames.start(run.start)
    return stored[frames.start(number) - first : frames.ends[number] - first]
