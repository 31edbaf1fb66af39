"""A pack on its way into frames: what is given up leaves nobody who still reads the memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asyncckpt.format.codec import Codec
from asyncckpt.format.frames import FRAME, Framer
from asyncckpt.worker.encoding import Encoding

CODEC = Codec(compresses=True)


async def whole(view: memoryview) -> AsyncIterator[memoryview]:
    yield view


def test_a19_a20_a_save_that_is_given_up_waits_for_those_who_read_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, real = threading.Event(), threading.Event(), Framer.make

    def slow(self: Framer, *arguments: Any) -> Any:
        begun.set()
        go_on.wait()
        return real(self, *arguments)

    monkeypatch.setattr(Framer, "make", slow)
    arena = bytearray(5 * FRAME)

    async def act() -> None:
        with ThreadPoolExecutor(2) as threads, memoryview(arena) as view:
            encoding = Encoding(CODEC, "data/a/p0.zst", len(arena), threads)

            async def put() -> None:
                async for _ in encoding.stored(whole(view)):
                    pass

            putting = asyncio.ensure_future(put())
            await asyncio.to_thread(begun.wait)
            putting.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            is_over = putting.done()
            go_on.set()
            assert not is_over, "a thread reads still"
            with pytest.raises(asyncio.CancelledError):
                await putting

    asyncio.run(act())


def test_a19_a20_what_one_thread_fails_of_is_raised_once_none_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, go_on, real = threading.Event(), threading.Event(), Framer.make

    def make(self: Framer, number: int, plain: memoryview) -> Any:
        if number == 0:
            failed.set()
            raise ValueError("the first")
        go_on.wait()
        return real(self, number, plain)

    monkeypatch.setattr(Framer, "make", make)
    arena = bytearray(5 * FRAME)

    async def act() -> None:
        with ThreadPoolExecutor(2) as threads, memoryview(arena) as view:
            encoding = Encoding(CODEC, "data/a/p0.zst", len(arena), threads)
            making = asyncio.ensure_future(anext(encoding.stored(whole(view))))
            await asyncio.to_thread(failed.wait)
            for _ in range(10):
                await asyncio.sleep(0)
            is_over = making.done()
            go_on.set()
            assert not is_over, "a thread reads still"
            with pytest.raises(ValueError, match="the first"):
                await making

    asyncio.run(act())
