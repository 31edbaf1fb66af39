"""Unpacking: any range of a pack in frames, and nothing that goes on writing when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from asyncckpt.fetching.unpacking import check_stored, fill
from asyncckpt.format.codec import Codec
from asyncckpt.format.contents import Pack
from asyncckpt.format.digest import digest
from asyncckpt.format.frames import Framer, Frames
from asyncckpt.storage import MemoryStorage

PLAIN = random.Random(1).randbytes(1000)
SIZE = 64


async def packed() -> tuple[MemoryStorage, Pack]:
    """A pack of `PLAIN` in small frames."""
    storage, key = MemoryStorage("packed"), "data/a/p0.zst"
    framer = Framer(Codec(compresses=True), key, len(PLAIN), "", key, SIZE)
    view = memoryview(PLAIN)
    frames = [bytes(framer.make(n, view[at : at + SIZE])) for n, at in enumerate(range(0, len(PLAIN), SIZE))]
    await storage.put(key, frames)
    stored = tuple((len(frame), digest(frame)) for frame in frames)
    return storage, Pack(key, len(PLAIN), 8, "d" * 32, codec="zstd", frames=Frames(SIZE, "", stored))


def test_a19_every_range_is_what_it_was() -> None:
    async def act() -> None:
        storage, pack = await packed()
        for start in range(0, 1000, 37):
            for length in (1, 27, 64, 65, 600, 1000):
                if start + length <= 1000:
                    into = bytearray(length)
                    await fill(storage, pack, start, memoryview(into))
                    assert bytes(into) == PLAIN[start : start + length]
        seen: list[int] = []
        await check_stored(storage, pack, seen.append)
        assert sum(seen) == 1000

    asyncio.run(act())


def test_a19_who_is_cancelled_leaves_nobody_who_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory may be a live parameter, which the next checkpoint is read into by then."""
    begun, go_on, real = threading.Event(), threading.Event(), Framer.open

    def slow(self: Framer, *arguments: Any) -> Any:
        begun.set()
        go_on.wait()
        return real(self, *arguments)

    monkeypatch.setattr(Framer, "open", slow)

    async def act() -> None:
        storage, pack = await packed()
        into = bytearray(1000)
        filling = asyncio.ensure_future(fill(storage, pack, 0, memoryview(into)))
        await asyncio.to_thread(begun.wait)
        filling.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not filling.done(), "a thread writes still"
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await filling

    asyncio.run(act())
