"""Download: one range of one object into memory; what was cut short goes on from where it was cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from asyncckpt.storage.bucket.client import TOKEN, Found
from asyncckpt.storage.bucket.requests import Requests

_PIECE = 1 << 20


def found_in(answer: Mapping[str, Any], length: int) -> Found:
    """What the store's answer says of the object."""
    stored = answer.get("LastModified")
    at = None if stored is None else stored.timestamp()
    return Found(length, answer.get("ETag"), answer.get("Metadata", {}).get(TOKEN), at)


class Truncated(ConnectionError):
    """The store closed the connection before the last byte."""


async def fill(requests: Requests, where: Mapping[str, str], into: memoryview, start: int, version: str | None) -> None:
    """Read what begins at `start`, of that version, into all of `into`. Raises `Failed`."""
    filled = 0
    condition = {} if version is None else {"IfMatch": version}

    async def attempt(s3: Any) -> None:
        nonlocal filled
        last = start + len(into) - 1
        got = await s3.get_object(**where, Range=f"bytes={start + filled}-{last}", **condition)
        async with got["Body"] as body:
            async for piece in _pieces(body, len(into) - filled):
                into[filled : filled + len(piece)] = piece
                filled += len(piece)

    await requests.make(attempt)


async def first(
    requests: Requests, where: Mapping[str, str], start: int, count: int, into: memoryview | None = None
) -> tuple[Found, memoryview]:
    """Read at most `count` bytes from `start`, and what the object is; fewer where it ends before. Raises `Failed`.

    They are read into `into`, which has room for them, or into memory of their own.
    """

    async def attempt(s3: Any) -> tuple[Found, memoryview]:
        got = await s3.get_object(**where, Range=f"bytes={start}-{start + count - 1}")
        total = int(str(got["ContentRange"]).rpartition("/")[2]) if "ContentRange" in got else int(got["ContentLength"])
        wanted, filled = max(0, min(count, total - start)), 0
        room = memoryview(bytearray(wanted)) if into is None else into[:wanted]  # most objects are far below `count`
        async with got["Body"] as body:
            if "ContentRange" not in got:  # a store that knows no ranges sends everything
                async for _ in _pieces(body, min(start, total)):
                    pass
            async for piece in _pieces(body, wanted):
                room[filled : filled + len(piece)] = piece
                filled += len(piece)
        return found_in(got, total), room

    return await requests.make(attempt)


async def _pieces(body: Any, count: int) -> AsyncIterator[bytes]:
    """The next `count` bytes of an answer; raises `Truncated` where it ends before."""
    left = count
    while left:
        piece = await body.read(min(_PIECE, left))
        if not piece:
            raise Truncated(f"{left} of {count} bytes did not come")
        left -= len(piece)
        yield piece
