"""Limited: a storage of known bandwidth, so that tests know what there is time for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from asyncckpt.storage.base import Buffer, ObjectInfo, Parts, PutMode, Storage
from asyncckpt.storage.cutting import each
from asyncckpt.testing.slow import GatedStorage

PIECE = 256 << 10


class LimitedStorage(GatedStorage):
    """Takes `rate` bytes per second of all that is put, however many puts share them."""

    def __init__(self, inner: Storage, rate: float) -> None:
        super().__init__(inner)
        self._rate = rate
        self._turn = asyncio.Lock()

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """See `Storage.put`."""
        return await super().put(key, self._limited(parts), length=length, mode=mode)

    async def _limited(self, parts: Parts) -> AsyncIterator[Buffer]:
        async for part in each(parts):
            view = memoryview(part)
            for start in range(0, len(view), PIECE):
                piece = view[start : start + PIECE]
                async with self._turn:
                    await asyncio.sleep(len(piece) / self._rate)
                yield piece
