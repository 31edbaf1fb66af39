"""Ranges: parts of objects on their way into memory, straight where that is possible, else as a client's library reads.

Whatever happens to what is read straight, the library makes the second attempt: what else is wrong, it says. Where a
store refuses what the library is given, the library reads for a while, and then it is tried again: credentials may have
expired just then, which the library has others for.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from asyncckpt.storage.bucket.client import Found
from asyncckpt.storage.bucket.requests import Requests
from asyncckpt.storage.bucket.signed import Signed
from asyncckpt.storage.bucket.straight import Answered, Straight, Truncated, between
from asyncckpt.storage.bucket.trial import Trial
from asyncckpt.storage.spans import span

logger = logging.getLogger("asyncckpt")

_NOT_AS_ASKED = (200, 206, 301, 302, 307, 308, 400, 401, 403)
"""What a store answers that takes no signed URLs, or no ranges with them, or that is asked elsewhere."""

_WITHOUT = "{}: reads go through {}'s own connections, and take twice the processor time or more"


class Library(Protocol):
    """How the library reads that a client asks with; `client` is what its connection gives."""

    name: str

    def straight(self, client: Any) -> Straight | str | None:
        """What reads straight here, or why nothing can; None where nobody would expect it."""
        ...

    async def sign(self, client: Any, name: str) -> str:
        """A URL of the object `name` that says who asks, for `asyncckpt.storage.bucket.signed.LIFETIME`."""
        ...

    async def get(self, client: Any, reading: Reading) -> Found:
        """Read what is missing, all that the object has of it."""
        ...


class Ranges:
    """Reads ranges; all on one event loop. It adds to `weaker` why it does not read them straight, if so."""

    def __init__(self, requests: Requests, library: Library, weaker: dict[str, str]) -> None:
        self._requests = requests
        self._library = library
        self.weaker = weaker
        self._signed = Signed(library.sign)
        self._trial = Trial()
        self._is_unfit = False

    async def first(self, name: str, start: int, count: int, into: memoryview | None) -> tuple[Found, memoryview]:
        """See `asyncckpt.storage.bucket.client.Client.first`."""
        reading = Reading(name, start, count, None if into is None else [into[:count]])

        async def attempt(client: Any) -> tuple[Found, memoryview]:
            reading.filled = 0  # it may be another object by now
            found = await self._read(client, reading)
            return found, reading.room[0][: reading.filled]

        return await self._requests.make(attempt)

    async def fill(self, name: str, into: memoryview, start: int, version: str | None) -> None:
        """See `asyncckpt.storage.bucket.client.Client.fill`; what was cut short goes on from where it was cut."""
        reading = Reading(name, start, len(into), [into], version)

        async def attempt(client: Any) -> None:
            if reading.filled < len(into):  # or only the end of the answer went wrong, after the last byte
                await self._read(client, reading)
            _check(len(into) - reading.filled)

        await self._requests.make(attempt)

    async def scatter(self, name: str, into: Sequence[memoryview], start: int) -> None:
        """See `asyncckpt.storage.bucket.client.Client.scatter`."""
        reading = Reading(name, start, sum(map(len, into)), into)

        async def attempt(client: Any) -> None:
            reading.filled = 0  # it may be another object by now
            found = await self._read(client, reading)
            span(name, found.length, start, reading.count, None)
            _check(reading.count - reading.filled)

        await self._requests.make(attempt)

    async def _read(self, client: Any, reading: Reading) -> Found:
        """Read what is missing: straight where there is memory for it, and where that failed, as the library reads."""
        is_again, reading.is_again = reading.is_again, True
        was_refused, refused = self._trial.is_on, None
        if reading.into is not None and not is_again and (straight := self._straight(client)) is not None:
            url = await self._signed.url(client, reading.name)
            try:
                found, reading.filled = await straight.read(url, reading.start, reading.room, reading.version)
            except (Answered, ssl.SSLCertVerificationError) as error:
                if isinstance(error, Answered) and error.status not in _NOT_AS_ASKED:
                    raise
                self._signed.forget()
                refused = error  # whatever else is wrong, the library says so
            else:
                if was_refused:
                    self._goes_straight()
                return found
        reading.is_in_pieces = is_again
        found = await self._library.get(client, reading)
        _check(reading.expected - reading.filled)
        if refused is not None:
            self._trial.refuse(client, is_again=was_refused)
            self._tell(f"signed URLs are refused ({refused})")
        return found

    def _straight(self, client: Any) -> Straight | None:
        if self._is_unfit or not self._trial.is_due(client):
            return None
        straight = self._library.straight(client)
        if isinstance(straight, str):
            self._is_unfit = True
            self._tell(straight)
            return None
        return straight

    def _goes_straight(self) -> None:
        if self._trial.accept():
            self.weaker.pop("reads", None)
            logger.info("%s: reads go straight again", self._requests.url)

    def _tell(self, why: str) -> None:
        self.weaker["reads"] = _WITHOUT.format(why, self._library.name)


@dataclass(slots=True)
class Reading:
    """At most `count` bytes of one object, from `start`, of which some are there; without `into` in new memory."""

    name: str
    start: int
    count: int
    into: Sequence[memoryview] | None
    version: str | None = None
    filled: int = 0
    expected: int = 0
    """Bytes that the object has of them."""
    is_again: bool = False
    """Whether it was begun before."""
    is_in_pieces: bool = False
    """Whether what comes is to be kept piece by piece, since an attempt before has failed."""
    room: Sequence[memoryview] = field(init=False)
    """Where the bytes go, one after the other."""

    def __post_init__(self) -> None:
        self.room = [memoryview(b"")] if self.into is None else self.into

    def expect(self, size: int) -> None:
        """Have room for what an object of `size` bytes has of it."""
        self.expected = max(0, min(self.count, size - self.start))
        if self.into is None:
            self.room = [memoryview(bytearray(self.expected))]

    def add(self, piece: Any) -> None:
        """The next bytes."""
        came = memoryview(piece)
        for part in between(self.room, self.filled, self.filled + len(came)):
            part[:], came = came[: len(part)], came[len(part) :]
            self.filled += len(part)
        if came:
            raise ConnectionError(f"{len(came)} bytes more came than were asked for")


def _check(missing: int) -> None:
    if missing > 0:
        raise Truncated(f"{missing} bytes did not come")
