"""What the conformance suite is made of: a fresh store for each test, and ways to look at it."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from asyncckpt.errors import ObjectExists, ObjectNotFound
from asyncckpt.storage.base import Buffer, ObjectInfo, Storage, UploadInfo

_T = TypeVar("_T")

BLOCK = 4096


class StoreTest:
    """Tests of one `Storage`."""

    def make(self) -> Storage:
        """A new instance on this test's root, which is fresh for every test; several share that root."""
        raise NotImplementedError

    def run(self, act: Callable[[Storage], Awaitable[_T]]) -> _T:
        return use(self.make(), act)


def use(store: Storage, act: Callable[[Storage], Awaitable[_T]]) -> _T:
    """Run `act` on `store` in a loop of its own, then close the store."""

    async def main() -> _T:
        try:
            return await act(store)
        finally:
            await store.aclose()

    return asyncio.run(main())


async def listed(store: Storage, prefix: str = "", start_after: str | None = None) -> list[ObjectInfo]:
    return [info async for info in store.list(prefix, start_after)]


async def keys(store: Storage, prefix: str = "", start_after: str | None = None) -> list[str]:
    return [info.key async for info in store.list(prefix, start_after)]


async def content(store: Storage, key: str) -> bytes:
    return bytes(await store.get(key))


async def unfinished(store: Storage, prefix: str = "") -> list[UploadInfo]:
    return [upload async for upload in store.uploads(prefix)]


async def expect(store: Storage, key: str, whole: bytes | None) -> None:
    """Assert that `whole`, or (None) no object, is there, by every way of looking."""
    if whole is None:
        assert await store.head(key) is None
        assert key not in await keys(store)
        with pytest.raises(ObjectNotFound):
            await store.get(key)
    else:
        assert await store.get(key) == whole
        assert ObjectInfo(key, len(whole)) in await listed(store)


async def attempt(store: Storage, key: str, text: str) -> str | None:
    """Create; `text` if that succeeded, None if the key was taken."""
    try:
        await store.put(key, [text.encode()], mode="create")
    except ObjectExists:
        return None
    return text


async def stream(parts: Sequence[Buffer]) -> AsyncIterator[Buffer]:
    for part in parts:
        yield part


async def forever(halfway: asyncio.Event) -> AsyncIterator[Buffer]:
    """Some bytes, then nothing more, ever."""
    yield bytes(2 * 1024 * 1024)
    halfway.set()
    await asyncio.Event().wait()
    yield b""


def aligned(sizes: Sequence[int]) -> list[memoryview]:
    """Writable buffers of these sizes that begin on a page, with bytes that tell them apart."""
    parts = []
    for number, size in enumerate(sizes):
        part = memoryview(mmap.mmap(-1, max(size, 1)))[:size]
        part[:] = hashlib.shake_128(bytes([number])).digest(size)
        parts.append(part)
    return parts
