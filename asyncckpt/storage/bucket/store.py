"""Bucket storage: objects below one prefix of a bucket.

Everything is asked by one client on a loop of its own (``crossing``); what is to be stored is taken from the caller's
loop part by part. A put is one request, or parts that show nothing before they are completed. A create asks for what is
not there; whether the server heeds that, `probe` finds out.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import TypeVar

from asyncckpt.errors import ObjectNotFound, OutcomeUnknown, StorageDenied, StorageError, TransientError
from asyncckpt.storage.base import Buffer, Exclusive, ObjectInfo, Parts, PutMode, UploadInfo, check_key, each_got
from asyncckpt.storage.bucket.client import Client, Found, Upload
from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.probing import is_ignored
from asyncckpt.storage.bucket.requests import Failed
from asyncckpt.storage.bucket.tuning import Tuning
from asyncckpt.storage.crossing import Crossing
from asyncckpt.storage.cutting import at_most, blocks, lasts
from asyncckpt.storage.room import room
from asyncckpt.storage.spans import check_length, span
from asyncckpt.storage.together import together

logger = logging.getLogger("asyncckpt")

HASTE = 2.0
"""Seconds that the abort of an upload may take that was given up."""

_ANEW = 4
"""How often an object is read that is overwritten while it is: no two of its ranges are of different versions."""

_T = TypeVar("_T")


class BucketStorage:
    """A `Storage` at ``scheme://bucket/prefix`` that `client` asks for.

    May be used from several event loops at once, and by several instances and processes on one root. Keys of
    `fallbacks`: ``conditional_writes``, and what the client says is weaker than it could be.
    """

    def __init__(self, names: Names, client: Client, tuning: Tuning) -> None:
        self._names = names
        self._client = client
        self._tuning = tuning
        self._crossing = Crossing(f"asyncckpt-{client.name}", names.url)
        self._ignored: str | None = None
        self._gives: Exclusive | None = None
        self._is_there = False

    @property
    def url(self) -> str:
        """``scheme://bucket/prefix``."""
        return self._names.url

    @property
    def backend(self) -> str:
        """The library that asks: ``s3fs`` or ``obstore``."""
        return self._client.name

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """See `Storage.fallbacks`."""
        ignored = {} if self._ignored is None else {"conditional_writes": self._ignored}
        return {**self._client.weaker, **ignored}

    @property
    def retries(self) -> Mapping[str, int]:
        """See `asyncckpt.storage.base.Retrying`."""
        return MappingProxyType(self._client.requests.retries)

    async def probe(self) -> Exclusive:
        """Find out whether creates are exclusive here, by trying, once; leaves nothing behind."""
        if self._gives is None:
            keys = [f".probe-{secrets.token_hex(8)}" for _ in range(2)]
            second, race = (functools.partial(self._create_empty, key) for key in keys)
            try:
                await second()
                self._ignored = await is_ignored(second, race)
            finally:
                await self._about("", lambda: self._client.delete([self._names.whole(key) for key in keys]))
            self._gives = "whole" if self._ignored is None else "none"
        return self._gives

    async def _create_empty(self, key: str) -> None:
        await self._put_whole(key, memoryview(b""), "create")

    # -- writing -------------------------------------------------------------------------------------------

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """Store an object, see `Storage.put`; a `length` that `parts` do not have is a `StorageError`.

        A cancellation that comes while the object is being shown is raised when that is over: it is there then.
        """
        check_key(key)
        if mode == "create" and await self.probe() == "none":
            raise StorageDenied(errno.ENOTSUP, f"{self.url}: {self._ignored}")
        size = self._tuning.part_of(length if length is not None else at_most(parts))
        async with aclosing(blocks(parts, size)) as cut:
            head = await anext(cut, memoryview(b""))
            second = await anext(cut, None)
            if second is not None and (mode != "create" or self._client.creates_in_parts):
                is_copied = self._client.copies_parts or not lasts(parts)
                window = self._tuning.window(size if is_copied else None)
                return await self._put_parts(key, _joined(head, second, cut), size, window, length, mode)
            # A copy: what a connection that was given up has left to send, it may send when the put has ended.
            whole = bytes(head) if second is None else b"".join([block async for block in _joined(head, second, cut)])
            check_length(key, len(whole), length)
            await self._put_whole(key, memoryview(whole), mode)
            return ObjectInfo(key, len(whole))

    async def _put_whole(self, key: str, memory: memoryview, mode: PutMode) -> None:
        token, name = secrets.token_hex(16), self._names.whole(key)
        await self._about(key, lambda: self._client.put(name, memory, token, mode, lambda: self._settled(key, token)))

    async def _put_parts(
        self, key: str, cut: AsyncIterator[memoryview], size: int, window: int, length: int | None, mode: PutMode
    ) -> ObjectInfo:
        token, written = secrets.token_hex(16), 0
        upload = self._client.upload(self._names.whole(key), token, mode, size, window)
        try:
            await self._about(key, upload.begin, to_the_end=True)
            async for block in cut:
                await self._about(key, functools.partial(upload.add, block))
                written += len(block)
            check_length(key, written, length)
            await self._about(key, upload.sent)
            await self._about(key, lambda: upload.complete(lambda: self._settled(key, token)), to_the_end=True)
        except BaseException as error:
            await self._abort(key, upload, is_given_up=isinstance(error, asyncio.CancelledError))
            raise
        return ObjectInfo(key, written)

    async def _abort(self, key: str, upload: Upload, *, is_given_up: bool) -> None:
        """Have the store forget it; who has given it up has no time, most likely since the process will be killed."""
        within = HASTE if is_given_up else None
        try:
            await self._about(key, lambda: upload.abort(within), to_the_end=True)
        except (StorageError, TimeoutError) as error:  # why the put failed is what counts
            logger.warning("an unfinished upload is left to the next start: %s/%s: %r", self.url, key, error)

    async def _settled(self, key: str, token: str) -> Found | None:
        """What is there, if it is from the put with this `token`."""
        try:
            found = await self._client.head(self._names.whole(key))
        except Failed as failed:
            message = f"{self.url}/{key}: whether it was stored is not known: {failed}"
            raise OutcomeUnknown(errno.EIO, message) from failed
        return found if found is not None and found.token == token else None

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, see `Storage.delete`."""
        names = [self._names.whole(check_key(key)) for key in dict.fromkeys(keys)]
        most = self._client.deletes_at_once
        failed: list[StorageError] = []
        for at in range(0, len(names), most):
            try:
                await self._about("", functools.partial(self._client.delete, names[at : at + most]))
            except StorageError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """Multipart uploads of this root that nobody has completed or aborted."""
        for upload in await self._about("", lambda: self._client.unfinished(prefix)):
            yield upload

    async def abort(self, upload: UploadInfo) -> None:
        """Abort an upload that `uploads` named; a put that is still at it fails."""
        check_key(upload.key)
        await self._about(upload.key, lambda: self._client.forget(upload))

    # -- reading -------------------------------------------------------------------------------------------

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """Read a range, see `Storage.get`; a long one in several requests at once."""
        check_key(key)
        return await self._about(key, lambda: self._get(key, start, length, into))

    async def _get(self, key: str, start: int, length: int | None, into: Buffer | None) -> memoryview:
        for _ in range(_ANEW):
            try:
                return await self._got(key, start, length, into)
            except Failed as failed:
                if failed.fault.kind != "exists":
                    raise
        raise TransientError(errno.EAGAIN, f"{self.url}/{key}: it was overwritten each time that it was read")

    async def _got(self, key: str, start: int, length: int | None, into: Buffer | None) -> memoryview:
        name, size = self._names.whole(key), self._tuning.range_size
        asked = size if length is None else min(size, length)
        # What is no room for what was asked for is refused below.
        fits = into is not None and len(into) == length and not memoryview(into).readonly
        target = memoryview(into) if into is not None and fits else None
        found, head = await self._first(key, start, asked, None if target is None else target[:asked])
        count = span(f"{self.url}/{key}", found.length, start, length, into)
        if into is None and len(head) == count:
            return head
        if target is None:
            target = memoryview(room(count) if into is None else into)
            target[: len(head)] = head
        await together(
            self._client.fill(name, target[at : at + size], start + at, found.version)
            for at in range(len(head), count, size)
        )
        return target

    async def _first(self, key: str, start: int, count: int, into: memoryview | None) -> tuple[Found, memoryview]:
        """The object, and at most its first `count` bytes from `start`; none for a range that it does not have."""
        if start >= 0 and count > 0:
            try:
                return await self._client.first(self._names.whole(key), start, count, into)
            except Failed as failed:
                if failed.fault.kind != "range":
                    raise
        found = await self._client.head(self._names.whole(key))
        if found is None:
            raise ObjectNotFound(errno.ENOENT, f"{self.url}/{key}: there is no such object")
        return found, memoryview(b"")

    async def scatter(self, key: str, start: int, into: Sequence[memoryview]) -> None:
        """Read one range into several pieces of memory, see `Scattering.scatter`."""
        name = self._names.whole(check_key(key))
        await self._about(key, lambda: self._client.scatter(name, into, start))

    async def get_each(self, keys: Sequence[str]) -> list[memoryview | StorageError]:
        """Read many small objects whole, see `Storage.get_each`; as many at once as the store may be asked for."""
        return await each_got(self, keys, 4 * self._tuning.concurrency)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's length, or None if there is none."""
        found = await self._about(check_key(key), lambda: self._client.head(self._names.whole(key)))
        return None if found is None else ObjectInfo(key, found.length)

    async def stored_at(self, key: str) -> float | None:
        """See `asyncckpt.storage.base.Dated`."""
        found = await self._about(check_key(key), lambda: self._client.head(self._names.whole(key)))
        if found is None:
            raise ObjectNotFound(errno.ENOENT, f"{self.url}/{key}: there is no such object")
        return found.stored

    async def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """Every object under `prefix`, sorted, see `Storage.list`; asked of the store anew each time."""
        for found in await self._about("", lambda: self._client.objects(prefix, start_after)):
            yield found

    # -- the client ----------------------------------------------------------------------------------------

    async def _about(self, key: str, work: Callable[[], Coroutine[None, None, _T]], *, to_the_end: bool = False) -> _T:
        """Carry out `work`, which is about `key`, on the client's loop; `to_the_end` even when this is cancelled."""
        what = f"{self.url}/{key}" if key else self.url

        async def checked() -> _T:
            try:
                await self._check_bucket()
                return await work()
            except Failed as failed:
                raise failed.error(what) from failed.__cause__

        return await (self._crossing.finish if to_the_end else self._crossing.call)(checked)

    async def _check_bucket(self) -> None:
        """Raise unless the bucket is there: some stores create one at the first put, or say only that a key is not."""
        if not self._is_there:
            await self._client.check(self._names.whole(""))
            self._is_there = True

    async def aclose(self) -> None:
        """Close the connections and end the thread."""
        if self._crossing.is_running:
            await self._crossing.finish(self._client.aclose)
        await self._crossing.aclose()


async def _joined(first: memoryview, second: memoryview, rest: AsyncIterator[memoryview]) -> AsyncIterator[memoryview]:
    yield first
    yield second
    async for block in rest:
        yield block
