"""Client: what an S3 store asks for, in the words of aiobotocore."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from asyncckpt.storage.base import ObjectInfo, PutMode, UploadInfo
from asyncckpt.storage.bucket.client import TOKEN, Found, Settle
from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.ranges import Ranges, Reading
from asyncckpt.storage.bucket.requests import Requests
from asyncckpt.storage.bucket.signed import LIFETIME
from asyncckpt.storage.bucket.straight import Straight
from asyncckpt.storage.s3.body import Body
from asyncckpt.storage.s3.connection import S3Connection
from asyncckpt.storage.s3.download import found_in, get
from asyncckpt.storage.s3.listing import objects, unfinished
from asyncckpt.storage.s3.upload import S3Upload, checksum, condition, forget


class S3Client:
    """Asks a bucket through aiobotocore. `extra` is what every object is stored with besides; `weaker` see `Client`."""

    name = "s3fs"
    creates_in_parts = True
    copies_parts = False
    deletes_at_once = 1000

    def __init__(
        self,
        requests: Requests,
        connection: S3Connection,
        names: Names,
        extra: Mapping[str, Any],
        weaker: Mapping[str, str],
    ) -> None:
        self.requests = requests
        self.weaker = dict(weaker)
        self._connection = connection
        self._names = names
        self._extra = extra
        self._ranges = Ranges(requests, self, self.weaker)

    async def check(self, prefix: str) -> None:
        """See `Client.check`."""

        async def attempt(s3: Any) -> None:
            await s3.list_objects_v2(Bucket=self._names.bucket, Prefix=prefix, MaxKeys=1)

        await self.requests.make(attempt)

    async def put(self, name: str, memory: memoryview, token: str, mode: PutMode, settle: Settle) -> None:
        """See `Client.put`."""
        crc = await asyncio.to_thread(checksum, memory)

        async def attempt(s3: Any) -> Found:
            said = {**self._where(name), **self._given(token), **condition(mode)}
            await s3.put_object(**said, Body=Body(memory), ChecksumCRC32=crc)
            return Found(len(memory), None, token)

        await self.requests.make(attempt, settle)

    def upload(self, name: str, token: str, mode: PutMode, part: int, window: int) -> S3Upload:
        """See `Client.upload`."""
        return S3Upload(self.requests, self._where(name), self._given(token), condition(mode), window)

    async def delete(self, names: Sequence[str]) -> None:
        """See `Client.delete`."""

        async def attempt(s3: Any) -> None:
            asked = {"Objects": [{"Key": name} for name in names], "Quiet": True}
            done = await s3.delete_objects(Bucket=self._names.bucket, Delete=asked)
            for error in done.get("Errors", ()):
                if error.get("Code") != "NoSuchKey":
                    raise _Refused(error)

        await self.requests.make(attempt)

    async def head(self, name: str) -> Found | None:
        """See `Client.head`."""

        async def attempt(s3: Any) -> Found:
            found = await s3.head_object(**self._where(name))
            return found_in(found, found["ContentLength"])

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

    def straight(self, client: Any) -> Straight | str:
        """See `Library.straight`."""
        return self._connection.straight(client)

    async def sign(self, client: Any, name: str) -> str:
        """See `Library.sign`."""
        lifetime = int(LIFETIME.total_seconds())
        return str(await client.generate_presigned_url("get_object", self._where(name), lifetime))

    async def get(self, client: Any, reading: Reading) -> Found:
        """See `Library.get`."""
        return await get(client, self._where(reading.name), reading)

    async def objects(self, prefix: str, start_after: str | None) -> list[ObjectInfo]:
        """See `Client.objects`."""
        return await objects(self.requests, self._names, prefix, start_after)

    async def unfinished(self, prefix: str) -> list[UploadInfo]:
        """See `Client.unfinished`."""
        return await unfinished(self.requests, self._names, prefix)

    async def forget(self, upload: UploadInfo) -> None:
        """See `Client.forget`."""
        await forget(self.requests, self._where(self._names.whole(upload.key)), upload.upload)

    async def aclose(self) -> None:
        """See `Client.aclose`."""
        await self.requests.connection.aclose()

    def _where(self, name: str) -> dict[str, str]:
        return {"Bucket": self._names.bucket, "Key": name}

    def _given(self, token: str) -> dict[str, Any]:
        return {**self._extra, "Metadata": {TOKEN: token}}


class _Refused(Exception):
    """One of several things that one request asked for was refused; `response` is as the client has it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("Message") or error.get("Code"))
        self.response = {"Error": dict(error)}
