"""Stores that lack something, or do something at a certain request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Exclusive, ObjectInfo, Parts, PutMode, Storage
from asyncckpt.testing.requests import FaultyStorage


class Giving(MemoryStorage):
    """A store whose creates are said to be `gives`."""

    def __init__(self, gives: Exclusive) -> None:
        super().__init__()
        self.gives = gives

    async def probe(self) -> Exclusive:
        return self.gives


class Ignoring(MemoryStorage):
    """A store that ignores conditions, as some S3 servers do: nothing can be created exclusively."""

    async def probe(self) -> Exclusive:
        return "none"

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        assert mode == "overwrite", key
        return await super().put(key, parts, length=length)


class Reacting(FaultyStorage):
    """Runs `react` (with this store's `inner`) right after each request that begins with `trigger`."""

    def __init__(self, inner: Storage, trigger: str, react: Callable[[Storage], Awaitable[object]]) -> None:
        super().__init__(inner)
        self._trigger = trigger
        self._react = react

    async def applied(self, request: str) -> None:
        if request.startswith(self._trigger):
            await self._react(self.inner)


async def damage(storage: Storage, key: str) -> None:
    """Flip a bit in the middle of an object."""
    data = bytearray(await storage.get(key))
    data[len(data) // 2] ^= 1
    await storage.put(key, [bytes(data)])
