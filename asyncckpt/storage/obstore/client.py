"""Client: what a bucket's store asks for, in obstore's words."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncckpt.storage.base import ObjectInfo, PutMode, UploadInfo
from asyncckpt.storage.bucket.client import TOKEN, Found, Settle, Upload
from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.requests import Requests
from asyncckpt.storage.obstore.connection import Stores
from asyncckpt.storage.obstore.leftovers import Leftovers
from asyncckpt.storage.obstore.signed import Signed
from asyncckpt.storage.obstore.straight import Answered, Straight, Truncated, between
from asyncckpt.storage.obstore.upload import ObstoreUpload
from asyncckpt.storage.s3 import S3Storage
from asyncckpt.storage.s3.client import S3Client
from asyncckpt.storage.spans import span

_PIECE = 256 << 10
_PAGE = 1000

_NOT_AS_ASKED = (200, 400, 401, 403)
"""What a store answers that takes no signed URLs, or no ranges with them."""

_WITHOUT = "{}: reads go through obstore's own connections, and take three times the processor time"

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
        self._signed = Signed()

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
        reading = _Reading(name, start, count, None if into is None else [into[:count]])

        async def attempt(stores: Stores) -> tuple[Found, memoryview]:
            reading.filled = 0  # it may be another object by now
            found = await self._read(stores, reading)
            return found, reading.room[0][: reading.filled]

        return await self.requests.make(attempt)

    async def fill(self, name: str, into: memoryview, start: int, version: str | None) -> None:
        """See `Client.fill`; what was cut short goes on from where it was cut."""
        reading = _Reading(name, start, len(into), [into], version)

        async def attempt(stores: Stores) -> None:
            await self._read(stores, reading)
            _check(len(into) - reading.filled)

        await self.requests.make(attempt)

    async def scatter(self, name: str, into: Sequence[memoryview], start: int) -> None:
        """Fill one piece of memory after the other with what begins at `start`, by one request."""
        reading = _Reading(name, start, sum(map(len, into)), into)

        async def attempt(stores: Stores) -> None:
            reading.filled = 0  # it may be another object by now
            found = await self._read(stores, reading)
            span(name, found.length, start, reading.count, None)
            _check(reading.count - reading.filled)

        await self.requests.make(attempt)

    async def _read(self, stores: Stores, reading: _Reading) -> Found:
        """Read what is missing: straight where there is memory for it, and where that failed, as obstore reads."""
        is_again, reading.is_again = reading.is_again, True
        refused: Exception | None = None
        if reading.into is not None and not is_again and (straight := self._straight(stores)) is not None:
            url = await self._signed.url(stores, reading.name)
            try:
                found, reading.filled = await straight.read(url, reading.start, reading.room, reading.version)
            except (Answered, ssl.SSLCertVerificationError) as error:
                if isinstance(error, Answered) and error.status not in _NOT_AS_ASKED:
                    raise
                self._signed.forget(reading.name)
                refused = error  # whatever else is wrong, obstore says so
            else:
                return found
        got = await self._answer(stores.obstore.get_async(stores.asking, reading.name, options=reading.options))
        wanted = reading.expect(got.meta["size"])
        async for piece in self._body(got, in_pieces=is_again):
            reading.add(piece)
        _check(wanted - reading.filled)
        if refused is not None:
            self.weaker["reads"] = _WITHOUT.format(f"signed URLs are refused ({refused})")
        return _found(got)

    def _straight(self, stores: Stores) -> Straight | None:
        if stores.unfit is not None:
            self.weaker["reads"] = _WITHOUT.format(stores.unfit)
        return None if "reads" in self.weaker else stores.straight

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


@dataclass(slots=True)
class _Reading:
    """At most `count` bytes of one object, from `start`, of which some are there; without `into` in new memory."""

    name: str
    start: int
    count: int
    into: Sequence[memoryview] | None
    version: str | None = None
    filled: int = 0
    is_again: bool = False
    """Whether it was begun before."""
    room: Sequence[memoryview] = field(init=False)
    """Where the bytes go, one after the other."""

    def __post_init__(self) -> None:
        self.room = [memoryview(b"")] if self.into is None else self.into

    @property
    def options(self) -> dict[str, Any]:
        """What obstore is asked for."""
        condition = {} if self.version is None else {"if_match": self.version}
        return {"range": (self.start + self.filled, self.start + self.count), **condition}

    def expect(self, size: int) -> int:
        """Have room for what an object of `size` bytes has of it; how much that is."""
        wanted = min(self.count, size - self.start)
        if self.into is None:
            self.room = [memoryview(bytearray(wanted))]
        return wanted

    def add(self, piece: Any) -> None:
        """The next bytes."""
        came = memoryview(piece)
        for part in between(self.room, self.filled, self.filled + len(came)):
            part[:], came = came[: len(part)], came[len(part) :]
            self.filled += len(part)
        if came:
            raise ConnectionError(f"{len(came)} bytes more came than were asked for")


def _found(got: Any) -> Found:
    meta = got.meta
    return Found(meta["size"], meta["e_tag"], got.attributes.get(TOKEN), meta["last_modified"].timestamp())


def _check(missing: int) -> None:
    if missing > 0:
        raise Truncated(f"{missing} bytes did not come")
