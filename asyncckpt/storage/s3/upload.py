"""Upload: one object in parts, several of them under way at any time: the next begins as soon as one has ended."""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Mapping
from typing import Any

from asyncckpt.storage.base import PutMode
from asyncckpt.storage.bucket.client import Found, Settle
from asyncckpt.storage.bucket.requests import Failed, Requests
from asyncckpt.storage.s3.body import Body


def checksum(memory: memoryview) -> str:
    """What the store compares the bytes with that it has got."""
    return base64.b64encode(zlib.crc32(memory).to_bytes(4, "big")).decode()


def condition(mode: PutMode) -> dict[str, str]:
    """What a put of that mode asks for."""
    return {"IfNoneMatch": "*"} if mode == "create" else {}


class S3Upload:
    """One multipart upload; all on the loop of `requests`, one call after the other.

    `where` is bucket and key, `given` what the object is stored with, `wanted` what it is completed with. At most
    `window` parts are held at once.
    """

    def __init__(
        self,
        requests: Requests,
        where: Mapping[str, str],
        given: Mapping[str, Any],
        wanted: Mapping[str, str],
        window: int,
    ) -> None:
        self._requests = requests
        self._where = where
        self._given = given
        self._wanted = wanted
        self._room = asyncio.Semaphore(window)
        self._id: str | None = None
        self._parts: list[asyncio.Task[dict[str, Any]]] = []

    async def begin(self) -> None:
        """Have the store begin it."""

        async def attempt(s3: Any) -> str:
            made = await s3.create_multipart_upload(**self._where, **self._given, ChecksumAlgorithm="CRC32")
            return str(made["UploadId"])

        self._id = await self._requests.make(attempt)

    async def add(self, memory: memoryview) -> None:
        """Send the next part; returns once there is room for it, and uses `memory` until it was sent.

        Raises what went wrong with an earlier one.
        """
        await self._room.acquire()
        for part in self._parts:
            if part.done():
                part.result()
        self._parts.append(asyncio.create_task(self._send(len(self._parts) + 1, memory)))

    async def _send(self, number: int, memory: memoryview) -> dict[str, Any]:
        try:
            crc = await asyncio.to_thread(checksum, memory)

            async def attempt(s3: Any) -> dict[str, Any]:
                sent = await s3.upload_part(
                    **self._where, UploadId=self._id, PartNumber=number, Body=Body(memory), ChecksumCRC32=crc
                )
                return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumCRC32": crc}

            return await self._requests.make(attempt)
        finally:
            self._room.release()

    async def sent(self) -> None:
        """Return once all parts have been sent; raises what went wrong with one."""
        await asyncio.gather(*self._parts)

    async def complete(self, settle: Settle) -> None:
        """Have the store show the object, once all parts were `sent`."""
        parts = [part.result() for part in self._parts]

        async def attempt(s3: Any) -> Found:
            done = await s3.complete_multipart_upload(
                **self._where, UploadId=self._id, MultipartUpload={"Parts": parts}, **self._wanted
            )
            return Found(0, done.get("ETag"))

        await self._requests.make(attempt, settle)
        self._id = None

    async def abort(self, within: float | None) -> None:
        """Have the store forget it, where it was begun and not completed; what cannot be is left to the next start."""
        for part in self._parts:
            part.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)
        if self._id is not None:
            async with asyncio.timeout(within):
                await forget(self._requests, self._where, self._id)
            self._id = None


async def forget(requests: Requests, where: Mapping[str, str], upload: str) -> None:
    """Abort an upload; absent is not an error."""

    async def attempt(s3: Any) -> None:
        await s3.abort_multipart_upload(**where, UploadId=upload)

    try:
        await requests.make(attempt)
    except Failed as failed:
        if failed.fault.kind not in ("no_upload", "missing"):
            raise
