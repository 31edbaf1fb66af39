"""Client: what a bucket's store asks for, in obstore's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from asyncckpt.storage.base import ObjectInfo, PutMode, UploadInfo
from asyncckpt.storage.bucket.client import TOKEN, Found, Settle, Upload
from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.ranges import Ranges, Reading
from asyncckpt.storage.bucket.requests import Requests
from asyncckpt.storage.bucket.signed import LIFETIME
from asyncckpt.storage.bucket.straight import Straight
from asyncckpt.storage.obstore.connection import Stores
from asyncckpt.storage.obstore.leftovers import Leftovers
from asyncckpt.storage.obstore.upload import ObstoreUpload
from asyncckpt.storage.s3 import S3Storage
from asyncckpt.storage.s3.client import S3Client

_PIECE = 256 << 10
_PAGE = 1000

_UNCOUNTED = "obstore itself tries parts of uploads again, and does not say how often"


class ObstoreClient:
    """Asks a bucket through obstore. `extra` are attributes that every object is stored with besides."""

    name = "obstore"
    copies_parts = True
    deletes_at_once = 1000

    def __init__(self, requests: Requests, names: Names, extra: dict[str, str]) -> None:
        self.requests = requests
        self.weaker: dict[str, str] = {}
        self.sweeper: S3Storage | None = None
        """Finds uploads that were left, which obstore cannot."""
        self.leftovers: Leftovers | None = None
        """Finds them where nothing else is installed that does."""
        self.creator: S3Client | None = None
        """Creates in parts, which obstore cannot; on the same loop."""
        self._names = names
        self._extra = extra
        self._ranges = Ranges(requests, self, self.weaker)

    @property
    def creates_in_parts(self) -> bool:
        """See `Client.creates_in_parts`; what cannot be is held in memory whole, and put in one request."""
        return self.creator is not None

    async def check(self, prefix: str) -> None:
        """See `Client.check`."""

        async def attempt(stores: Stores) -> None:
            async for _ in self._pages(stores, prefix, None):
                return

        await self.requests.make(attempt)

    # -- writing -------------------------------------------------------------------------------------------

    async def put(self, name: str, memory: memoryview, token: str, mode: PutMode, settle: Settle) -> None:
        """See `Client.put`."""

        async def attempt(stores: Stores) -> Found:
            given = {"attributes": self._given(token), "mode": mode, "use_multipart": False}
            await stores.obstore.put_async(stores.asking, name, memory, **given)
            return Found(len(memory), None, token)

        await self.requests.make(attempt, settle)

    def upload(self, name: str, token: str, mode: PutMode, part: int, window: int) -> Upload:
        """See `Client.upload`."""
        if mode == "create" and self.creator is not None:
            return self.creator.upload(name, token, mode, part, window)
        self.weaker["part_retries"] = _UNCOUNTED

        def put(stores: Stores, parts: Any) -> asyncio.Future[Any]:
            at_once = min(window, self.requests.limit)  # to its end: obstore does not tell what it tries again
            given = {"attributes": self._given(token), "chunk_size": part, "max_concurrency": at_once}
            begun: asyncio.Future[Any] = stores.obstore.put_async(stores.sending, name, parts, **given)
            return begun

        return ObstoreUpload(self.requests, put, lambda: self._sweep(name))

    async def delete(self, names: Sequence[str]) -> None:
        """See `Client.delete`; one request for each: what some servers answer to one for many, obstore cannot read."""
        for done in await asyncio.gather(*map(self._delete, names), return_exceptions=True):
            if done is not None:
                raise done

    async def _delete(self, name: str) -> None:
        async def attempt(stores: Stores) -> None:
            await self._answer(stores.obstore.delete_async(stores.asking, name))

        await self.requests.find(attempt)

    # -- reading -------------------------------------------------------------------------------------------

    async def head(self, name: str) -> Found | None:
        """See `Client.head`."""

        async def attempt(stores: Stores) -> Found:
            asked = stores.obstore.get_async(stores.asking, name, options={"head": True})
            return _found(await self._answer(asked))

        return await self.requests.find(attempt)

    async def first(
        self, name: str, start: int, count: int, into: memoryview | None = None
    ) -> tuple[Found, memoryview]:
        """See `Client.first`."""
        return await self._ranges.first(name, start, count, into)

    async def fill(self, name: str, into: memoryview, start: int, version: str | None) -> None:
        """See `Client.fill`."""
        await self._ranges.fill(name, into, start, version)

    async def scatter(self, name: str, into: Sequence[memoryview], start: int) -> None:
        """See `Client.scatter`."""
        await self._ranges.scatter(name, into, start)

    def straight(self, client: Stores) -> Straight | str | None:
        """See `Library.straight`."""
        return client.unfit or client.straight

    async def sign(self, client: Stores, name: str) -> str:
        """See `Library.sign`; it takes obstore's own threads and a turn of this loop."""
        return str(await client.obstore.sign_async(client.asking, "GET", name, LIFETIME))

    async def get(self, client: Stores, reading: Reading) -> Found:
        """See `Library.get`."""
        condition = {} if reading.version is None else {"if_match": reading.version}
        asked = {"range": (reading.start + reading.filled, reading.start + reading.count), **condition}
        got = await self._answer(client.obstore.get_async(client.asking, reading.name, options=asked))
        reading.expect(got.meta["size"])
        async for piece in self._body(got, in_pieces=reading.is_in_pieces):
            reading.add(piece)
        return _found(got)

    async def _body(self, got: Any, *, in_pieces: bool) -> AsyncIterator[Any]:
        """What an answer holds; `in_pieces` as they come, each within the time that the store may be silent for.

        As one it costs half the time, as no piece wakes this loop and none is copied under the interpreter lock. Where
        that did not come in time, or was cut short, the next attempt keeps what it gets.
        """
        if not in_pieces:
            yield memoryview(await self._answer(got.bytes_async()))
            return
        pieces = got.stream(min_chunk_size=_PIECE)
        while True:
            try:
                yield await self._answer(anext(pieces))
            except StopAsyncIteration:
                return

    async def objects(self, prefix: str, start_after: str | None) -> list[ObjectInfo]:
        """See `Client.objects`."""

        async def attempt(stores: Stores) -> list[ObjectInfo]:
            found = []
            async for name, size in self._pages(stores, self._names.whole(prefix), before):
                key = self._names.key(name)
                if key is not None and key.startswith(prefix) and (start_after is None or key > start_after):
                    found.append(ObjectInfo(key, size))
            return sorted(found, key=lambda info: info.key)

        before = self._names.before(prefix, start_after) if start_after else None
        return await self.requests.make(attempt)

    async def _pages(self, stores: Stores, prefix: str, after: str | None) -> AsyncIterator[tuple[str, int]]:
        """Everything in the folder that `prefix` ends in, which obstore lists no finer."""
        folder = prefix.rpartition("/")[0]
        pages = stores.obstore.list(stores.asking, folder or None, offset=after, chunk_size=_PAGE)
        while True:
            try:
                page = await self._answer(anext(pages))
            except StopAsyncIteration:
                return
            for entry in page:
                yield entry["path"], entry["size"]

    # -- uploads that were left ----------------------------------------------------------------------------

    async def unfinished(self, prefix: str) -> list[UploadInfo]:
        """See `Client.unfinished`."""
        if self.leftovers is not None:
            return await self.leftovers.unfinished(prefix)
        return [] if self.sweeper is None else [upload async for upload in self.sweeper.uploads(prefix)]

    async def forget(self, upload: UploadInfo) -> None:
        """See `Client.forget`."""
        if self.leftovers is not None:
            await self.leftovers.forget(upload)
        elif self.sweeper is not None:
            await self.sweeper.abort(upload)

    async def _sweep(self, name: str) -> None:
        """Abort all uploads for this very name, which no other put uses."""
        for upload in await self.unfinished(key := self._names.key(name) or ""):
            if upload.key == key:
                await self.forget(upload)

    async def aclose(self) -> None:
        """See `Client.aclose`."""
        if self.sweeper is not None:
            await self.sweeper.aclose()
        if self.creator is not None:
            await self.creator.aclose()
        await self.requests.connection.aclose()

    async def _answer(self, asked: Any) -> Any:
        """What comes of a request that waits for the store alone."""
        async with asyncio.timeout(self.requests.tuning.read_timeout):
            return await asked

    def _given(self, token: str) -> dict[str, str]:
        return {**self._extra, TOKEN: token}


def _found(got: Any) -> Found:
    meta = got.meta
    return Found(meta["size"], meta["e_tag"], got.attributes.get(TOKEN), meta["last_modified"].timestamp())
