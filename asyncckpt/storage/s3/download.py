"""Download: one range of one object into memory, as the client reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from asyncckpt.storage.bucket.client import TOKEN, Found
from asyncckpt.storage.bucket.ranges import Reading
from asyncckpt.storage.bucket.straight import Truncated

_PIECE = 1 << 20


def found_in(answer: Mapping[str, Any], length: int) -> Found:
    """What the store's answer says of the object."""
    stored = answer.get("LastModified")
    at = None if stored is None else stored.timestamp()
    return Found(length, answer.get("ETag"), answer.get("Metadata", {}).get(TOKEN), at)


async def get(s3: Any, where: Mapping[str, str], reading: Reading) -> Found:
    """Read what is missing, all that the object has of it."""
    condition = {} if reading.version is None else {"IfMatch": reading.version}
    start, end = reading.start + reading.filled, reading.start + reading.count
    got = await s3.get_object(**where, Range=f"bytes={start}-{end - 1}", **condition)
    has_range = "ContentRange" in got
    total = int(str(got["ContentRange"]).rpartition("/")[2]) if has_range else int(got["ContentLength"])
    reading.expect(total)
    async with got["Body"] as body:
        if not has_range:  # a store that knows no ranges sends everything
            async for _ in _pieces(body, min(start, total)):
                pass
        async for piece in _pieces(body, reading.expected - reading.filled):
            reading.add(piece)
    return found_in(got, total)


async def _pieces(body: Any, count: int) -> AsyncIterator[bytes]:
    """The next `count` bytes of an answer; raises `Truncated` where it ends before."""
    left = count
    while left:
        piece = await body.read(min(_PIECE, left))
        if not piece:
            raise Truncated(f"{left} of {count} bytes did not come")
        left -= len(piece)
        yield piece
