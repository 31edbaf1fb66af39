"""Download: one range of one object into memory; what was cut short goes on from where it was cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncckpt.storage.bucket.client import TOKEN, Found
from asyncckpt.storage.bucket.requests import Requests

_PIECE = 1 << 20


def found_in(answer: Mapping[str, Any], length: int) -> Found:
    """What the store's answer says of the object."""
    return Found(length, answer.get("ETag"), answer.get("Metadata", {}).get(TOKEN))


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
            while filled < len(into) and (piece := await body.read(min(_PIECE, len(into) - filled))):
                into[filled : filled + len(piece)] = piece
                filled += len(piece)
        if filled < len(into):
            raise Truncated(f"{len(into) - filled} of {len(into)} bytes did not come")

    await requests.make(attempt)


async def first(
    requests: Requests, where: Mapping[str, str], start: int, count: int, into: memoryview | None = None
) -> tuple[Found, memoryview]:
    """Read at most `count` bytes from `start`, and what the object is; fewer where it ends before. Raises `Failed`.

    They are read into `into`, which has room for them, or into memory of their own.
    """
    target = memoryview(bytearray(count)) if into is None else into

    async def attempt(s3: Any) -> tuple[Found, int]:
        got = await s3.get_object(**where, Range=f"bytes={start}-{start + count - 1}")
        is_part = "ContentRange" in got
        total = int(str(got["ContentRange"]).rpartition("/")[2]) if is_part else int(got["ContentLength"])
        skip, filled = 0 if is_part else start, 0  # a store that knows no ranges sends everything
        async with got["Body"] as body:
            while filled < count and (piece := await body.read(_PIECE)):
                rest = memoryview(piece)[skip : skip + count - filled]
                skip = max(0, skip - len(piece))
                target[filled : filled + len(rest)] = rest
                filled += len(rest)
        wanted = min(count, total - start)
        if filled != wanted:
            raise Truncated(f"{wanted - filled} of {wanted} bytes did not come")
        return found_in(got, total), filled

    found, filled = await requests.make(attempt)
    return found, target[:filled]
