"""obstore: an upload in parts of 16 MiB, twelve at a time, which is its default; ranges of the same for a download."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from asyncckpt.testing.s3server import KEY as ACCESS
from asyncckpt.testing.s3server import SECRET
from benchmarks.clients import Wait
from benchmarks.clients.place import REGION, Place
from benchmarks.clients.raw import KEY, Raw

_PART = 16 << 20
_CONCURRENCY = 12


class Obstore(Raw):
    """It hashes what it sends, for the signature."""

    unsigned = False

    def __init__(self, place: Place, nbytes: int) -> None:
        super().__init__(place, nbytes)
        self._obstore: Any = import_module("obstore")
        self._store: Any = import_module("obstore.store").S3Store(
            place.bucket,
            endpoint=place.endpoint,
            access_key_id=ACCESS,
            secret_access_key=SECRET,
            region=REGION,
            unsigned_payload=self.unsigned,
            client_options={"allow_http": True},
        )

    def open(self) -> None:
        list(self._obstore.list(self._store))

    def begin(self, number: int) -> Wait:
        async def put() -> None:
            await self._obstore.put_async(self._store, KEY, self.memory, chunk_size=_PART, max_concurrency=_CONCURRENCY)

        return lambda: asyncio.run(put())

    def get(self) -> None:
        asyncio.run(self._get())

    async def _get(self) -> None:
        room = asyncio.Semaphore(_CONCURRENCY)

        async def one(at: int, into: memoryview) -> None:
            async with room:
                got = await self._obstore.get_range_async(self._store, KEY, start=at, length=len(into))
                into[:] = memoryview(got)

        await asyncio.gather(*(one(at, piece) for at, piece in self.pieces(_PART)))


class Unsigned(Obstore):
    """It hashes nothing, and so nothing says whether what it sent has arrived as it was."""

    unsigned = True
