"""S3 storage: objects below one prefix of a bucket.

Everything is asked by one client on a loop of its own (``crossing``); what is to be stored is taken from the caller's
loop part by part. A put is one request, or parts that show nothing before they are completed. A create says
``If-None-Match: *``; whether the server heeds that, `probe` finds out.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, TypeVar

from asyncckpt.errors import ObjectNotFound, OutcomeUnknown, StorageDenied, StorageError
from asyncckpt.storage.base import Buffer, Exclusive, ObjectInfo, Parts, PutMode, UploadInfo, check_key, each_got
from asyncckpt.storage.crossing import Crossing
from asyncckpt.storage.cutting import blocks, lasts
from asyncckpt.storage.recipe import Recipe
from asyncckpt.storage.room import room
from asyncckpt.storage.s3.body import Body
from asyncckpt.storage.s3.download import Found, fill, first, found_in
from asyncckpt.storage.s3.listing import objects, unfinished
from asyncckpt.storage.s3.names import Names
from asyncckpt.storage.s3.probing import is_ignored
from asyncckpt.storage.s3.requests import Failed, Refused, Requests
from asyncckpt.storage.s3.tuning import tuning_of
from asyncckpt.storage.s3.upload import Upload, checksum, forget
from asyncckpt.storage.spans import check_length, span
from asyncckpt.storage.together import together

logger = logging.getLogger("asyncckpt")

_T = TypeVar("_T")

_TOKEN = "asyncckpt-put"  # noqa: S105 -- the name of a piece of metadata
_BATCH = 1000
"""Keys in one request for deletion; the protocol takes no more."""


class S3Storage:
    """A `Storage` at ``s3://bucket/prefix``; `options` are what s3fs takes, and ``asyncckpt``: see `Tuning`.

    May be used from several event loops at once, and by several instances and processes on one root.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._names = Names(url)
        self._options = dict(options or {})
        client = {name: value for name, value in self._options.items() if name != "asyncckpt"}
        self._tuning = tuning_of(self._options.get("asyncckpt", {}), self._names.url)
        self._requests = Requests(self._names.url, self._names.bucket, client, self._tuning)
        self._crossing = Crossing("asyncckpt-s3")
        self._fallbacks: dict[str, str] = {}
        self._gives: Exclusive | None = None
        self._is_there = False

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return self._names.url

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """Keys: ``conditional_writes``."""
        return MappingProxyType(self._fallbacks)

    @property
    def retries(self) -> Mapping[str, int]:
        """See `asyncckpt.storage.base.Retrying`."""
        return MappingProxyType(self._requests.retries)

    @property
    def long_range(self) -> int:
        """See `asyncckpt.storage.base.Ranging`: half of what is read with one request."""
        return self._tuning.range_size // 2

    def recipe(self) -> Recipe | None:
        """How another process makes it; None for options that cannot be told it."""
        try:
            said = json.dumps([self.url, self._options])
        except (TypeError, ValueError):
            return None
        return Recipe("asyncckpt.storage.s3.store", "from_recipe", said)

    async def probe(self) -> Exclusive:
        """Find out whether creates are exclusive here, by trying, once; leaves nothing behind."""
        if self._gives is None:
            keys = [f".probe-{secrets.token_hex(8)}" for _ in range(2)]
            second, race = (functools.partial(self._create_empty, key) for key in keys)
            try:
                await second()
                ignored = await is_ignored(second, race)
            finally:
                await self._about("", lambda: self._delete([self._names.whole(key) for key in keys]))
            if ignored is not None:
                self._fallbacks["conditional_writes"] = ignored
            self._gives = "whole" if ignored is None else "none"
        return self._gives

    async def _create_empty(self, key: str) -> None:
        await self._about(key, lambda: self._put_whole(key, memoryview(b""), "create"))

    # -- writing -------------------------------------------------------------------------------------------

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """Store an object, see `Storage.put`; a `length` that `parts` do not have is a `StorageError`.

        A cancellation that comes while the object is being shown is raised when that is over: it is there then.
        """
        check_key(key)
        if mode == "create" and await self.probe() == "none":
            raise StorageDenied(errno.ENOTSUP, f"{self.url}: {self._fallbacks['conditional_writes']}")
        size = self._tuning.part_of(length)
        async with aclosing(blocks(parts, size)) as cut:
            head = await anext(cut, memoryview(b""))
            second = await anext(cut, None)
            if second is None:
                check_length(key, len(head), length)
                # A copy: what a connection that was given up has left to send, it may send when the put has ended.
                whole = memoryview(bytes(head))
                await self._about(key, lambda: self._put_whole(key, whole, mode))
                return ObjectInfo(key, len(head))
            window = self._tuning.window(None if lasts(parts) else size)
            return await self._put_parts(key, _joined(head, second, cut), window, length, mode)

    async def _put_whole(self, key: str, memory: memoryview, mode: PutMode) -> None:
        token = secrets.token_hex(16)
        crc = await asyncio.to_thread(checksum, memory)

        async def attempt(s3: Any) -> dict[str, Any]:
            put = await s3.put_object(
                **self._where(key), **self._given(token), **_condition(mode), Body=Body(memory), ChecksumCRC32=crc
            )
            return dict(put)

        await self._requests.make(attempt, lambda: self._settled(key, token))

    async def _put_parts(
        self, key: str, cut: AsyncIterator[memoryview], window: int, length: int | None, mode: PutMode
    ) -> ObjectInfo:
        token, written = secrets.token_hex(16), 0
        upload = Upload(self._requests, self._where(key), window)
        try:
            await self._about(key, lambda: upload.begin(**self._given(token)), to_the_end=True)
            async for block in cut:
                await self._about(key, functools.partial(upload.add, block))
                written += len(block)
            check_length(key, written, length)
            await self._about(key, upload.sent)
            await self._about(
                key, lambda: upload.complete(lambda: self._settled(key, token), **_condition(mode)), to_the_end=True
            )
        except BaseException:
            await self._abort(key, upload)
            raise
        return ObjectInfo(key, written)

    async def _abort(self, key: str, upload: Upload) -> None:
        try:
            await self._about(key, upload.abort, to_the_end=True)
        except StorageError as error:  # why the put failed is what counts
            logger.warning("an unfinished upload is left to the next start: %s", error)

    def _given(self, token: str) -> dict[str, Any]:
        """What an object is stored with: `token` tells by which put, whoever got the answer."""
        return {**self._options.get("s3_additional_kwargs", {}), "Metadata": {_TOKEN: token}}

    async def _settled(self, key: str, token: str) -> dict[str, Any] | None:
        """What is there, if it is from the put with this `token`."""
        try:
            found = await self._head(key)
        except Failed as failed:
            message = f"{self.url}/{key}: whether it was stored is not known: {failed}"
            raise OutcomeUnknown(errno.EIO, message) from failed
        return found if found is not None and found.get("Metadata", {}).get(_TOKEN) == token else None

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, see `Storage.delete`."""
        names = [self._names.whole(check_key(key)) for key in dict.fromkeys(keys)]
        failed: list[StorageError] = []
        for at in range(0, len(names), _BATCH):
            try:
                await self._about("", functools.partial(self._delete, names[at : at + _BATCH]))
            except StorageError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def _delete(self, names: Sequence[str]) -> None:
        async def attempt(s3: Any) -> None:
            asked = {"Objects": [{"Key": name} for name in names], "Quiet": True}
            done = await s3.delete_objects(Bucket=self._names.bucket, Delete=asked)
            for error in done.get("Errors", ()):
                if error.get("Code") != "NoSuchKey":
                    raise Refused(error)

        await self._requests.make(attempt)

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """Multipart uploads of this root that nobody has completed or aborted."""
        for upload in await self._about("", lambda: unfinished(self._requests, self._names, prefix)):
            yield upload

    async def abort(self, upload: UploadInfo) -> None:
        """Abort an upload that `uploads` named; a put that is still at it fails."""
        where = self._where(check_key(upload.key))
        await self._about(upload.key, lambda: forget(self._requests, where, upload.upload))

    # -- reading -------------------------------------------------------------------------------------------

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """Read a range, see `Storage.get`; a long one in several requests at once."""
        check_key(key)
        return await self._about(key, lambda: self._get(key, start, length, into))

    async def _get(self, key: str, start: int, length: int | None, into: Buffer | None) -> memoryview:
        where, size = self._where(key), self._tuning.range_size
        target = None if into is None or memoryview(into).readonly else memoryview(into)
        most = len(target) if target is not None else size if length is None else length
        found, head = await self._first(key, start, min(size, most), target)
        count = span(f"{self.url}/{key}", found.length, start, length, into)
        if target is None:
            if len(head) == count:
                return head
            target = memoryview(room(count))
            target[: len(head)] = head
        await together(
            fill(self._requests, where, target[at : at + size], start + at, found.condition)
            for at in range(len(head), count, size)
        )
        return target

    async def _first(self, key: str, start: int, count: int, into: memoryview | None) -> tuple[Found, memoryview]:
        """The object, and at most its first `count` bytes from `start`; none for a range that it does not have."""
        if start >= 0 and count > 0:
            try:
                return await first(self._requests, self._where(key), start, count, into)
            except Failed as failed:
                if failed.fault.kind != "range":
                    raise
        found = await self._head(key)
        if found is None:
            raise ObjectNotFound(errno.ENOENT, f"{self.url}/{key}: there is no such object")
        return found_in(found, found["ContentLength"]), memoryview(b"")

    async def get_each(self, keys: Sequence[str]) -> list[memoryview | StorageError]:
        """Read many small objects whole, see `Storage.get_each`; as many at once as the store may be asked for."""
        return await each_got(self, keys, 4 * self._tuning.concurrency)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's length, or None if there is none."""
        found = await self._about(check_key(key), lambda: self._head(key))
        return None if found is None else ObjectInfo(key, found["ContentLength"])

    async def _head(self, key: str) -> dict[str, Any] | None:
        async def attempt(s3: Any) -> dict[str, Any]:
            return dict(await s3.head_object(**self._where(key)))

        try:
            return await self._requests.make(attempt)
        except Failed as failed:
            if failed.fault.kind != "missing":
                raise
            return None

    async def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """Every object under `prefix`, sorted, see `Storage.list`; asked of the store anew each time."""
        for found in await self._about("", lambda: objects(self._requests, self._names, prefix, start_after)):
            yield found

    # -- the client ----------------------------------------------------------------------------------------

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self._names.bucket, "Key": self._names.whole(key)}

    async def _about(self, key: str, work: Callable[[], Coroutine[Any, Any, _T]], *, to_the_end: bool = False) -> _T:
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

            async def attempt(s3: Any) -> None:
                await s3.list_objects_v2(Bucket=self._names.bucket, Prefix=self._names.whole(""), MaxKeys=1)

            await self._requests.make(attempt)
            self._is_there = True

    async def aclose(self) -> None:
        """Close the connections and end the thread."""
        if self._crossing.is_running:
            await self._crossing.finish(self._requests.aclose)
        await self._crossing.aclose()


def from_recipe(said: str) -> S3Storage:
    """What `S3Storage.recipe` describes."""
    url, options = json.loads(said)
    return S3Storage(url, options)


def _condition(mode: PutMode) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if mode == "create" else {}


async def _joined(first: memoryview, second: memoryview, rest: AsyncIterator[memoryview]) -> AsyncIterator[memoryview]:
    yield first
    yield second
    async for block in rest:
        yield block
