"""Encoding: a pack on its way into frames, compressed, encrypted or both, behind whoever fills it.

It happens in the worker's threads, a chunk at a time, so that what is in memory beside the arena is one chunk and what
the store has of it under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from typing import TypeAlias

from asyncckpt.format.cipher import new_salt
from asyncckpt.format.codec import Codec
from asyncckpt.format.digest import digest
from asyncckpt.format.frames import FRAME, Framer, Frames
from asyncckpt.worker.gathering import CHUNK

_TOGETHER = 4
"""Frames that one thread makes in a row: the threads are there for digests too."""

_Made: TypeAlias = list[tuple[bytes | memoryview, str]]
"""Frames and the digests of what is stored."""


class Encoding:
    """Of one put of the pack `key`, of `length` plain bytes."""

    def __init__(self, codec: Codec, key: str, length: int, threads: Executor) -> None:
        self._codec, self._key, self._length, self._threads = codec, key, length, threads
        self._salt = "" if codec.key is None else new_salt()
        self._stored: list[tuple[int, str]] = []

    @property
    def frames(self) -> Frames:
        """What was stored; once all of it is."""
        return Frames(FRAME, self._salt, tuple(self._stored))

    async def stored(self, parts: AsyncIterator[memoryview]) -> AsyncIterator[bytes]:
        """What to store of `parts`, all but the last of which are whole frames; each chunk stays as it is."""
        if self._stored:
            raise RuntimeError(f"{self._key} was encoded already: a second time takes another salt")
        async for part in parts:
            for start in range(0, len(part), CHUNK):
                made = await self._made(part[start : start + CHUNK])
                self._stored += [(len(frame), said) for frame, said in made]
                yield b"".join([frame for frame, _ in made])

    async def _made(self, chunk: memoryview) -> _Made:
        loop, first, size = asyncio.get_running_loop(), len(self._stored), _TOGETHER * FRAME
        making = asyncio.gather(
            *(
                loop.run_in_executor(self._threads, self._make, first + start // FRAME, chunk[start : start + size])
                for start in range(0, len(chunk), size)
            ),
            return_exceptions=True,
        )
        try:
            made = await asyncio.shield(making)
        except asyncio.CancelledError:
            await asyncio.wait([making])  # they read memory that is the next save's once this one has ended
            raise
        return [frame for frames in made for frame in _unless_failed(frames)]

    def _make(self, first: int, plain: memoryview) -> _Made:
        framer = Framer(self._codec, self._key, self._length, self._salt, self._key)
        made = (
            framer.make(first + number, plain[start : start + FRAME])
            for number, start in enumerate(range(0, len(plain), FRAME))
        )
        return [(frame, digest(frame)) for frame in made]


def _unless_failed(made: _Made | BaseException) -> _Made:
    if isinstance(made, BaseException):
        raise made
    return made
