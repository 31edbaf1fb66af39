"""Download: one range of one object into memory; what was cut short goes on from where it was cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from asyncckpt.storage.s3.requests import Requests

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """What a first read says of the object: its length and version."""

    length: int
    condition: Mapping[str, str]
    """What to ask further ranges with, so that they are of the same version; nothing where the store names none."""


def found_in(answer: Mapping[str, Any], length: int) -> Found:
    """The same, from the store's answer."""
    return Found(length, {"IfMatch": answer["ETag"]} if "ETag" in answer else {})


class Truncated(ConnectionError):
    """The store closed the connection before the last byte."""


async def fill(
    requests: Requests, where: Mapping[str, str], into: memoryview, start: int, condition: Mapping[str, str]
) -> None:
    """Read what begins at `start`, of the version that `condition` says, into all of `into`. Raises `Failed`."""
    filled = 0

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
    requests: Requests, where: Mapping[str, str], start: int, count: int, into: memoryview | None
) -> tuple[Found, memoryview]:
    """Read at most `count` bytes from `start`, and what the object is; fewer where it ends before.

    They are in `into`, where that is given, and otherwise in memory of their own. Raises `Failed`.
    """

    async def attempt(s3: Any) -> tuple[Found, memoryview]:
        got = await s3.get_object(**where, Range=f"bytes={start}-{start + count - 1}")
        total = int(str(got["ContentRange"]).rpartition("/")[2]) if "ContentRange" in got else int(got["ContentLength"])
        wanted, filled = max(0, min(count, total - start)), 0
        room = memoryview(bytearray(wanted)) if into is None else into[:wanted]
        async with got["Body"] as body:
            if "ContentRange" not in got:  # the store sends everything
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
