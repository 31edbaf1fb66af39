"""Client: what a bucket's store wants of the library that talks to its server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from asyncckpt.storage.base import ObjectInfo, PutMode, UploadInfo
from asyncckpt.storage.bucket.requests import Requests

TOKEN = "asyncckptput"  # noqa: S105 -- the name of a piece of metadata
"""Says by which put an object was stored. Azure takes no hyphens in such names, and proxies drop underscores."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the store says of an object."""

    length: int
    version: str | None
    """What to ask further ranges for, so that they are of the same version; None where the store names none."""
    token: str | None = None
    """That of the put that has stored it."""
    stored: float | None = None
    """When it was stored, by the store's clock, in seconds since the epoch."""


Settle: TypeAlias = Callable[[], Awaitable[Found | None]]
"""Finds out what a put whose answer was lost has done: the object, or None where it is not there."""


class Upload(Protocol):
    """One object that is stored part by part and shows when it is complete; one call after the other."""

    async def begin(self) -> None:
        """Have the store begin it."""
        ...

    async def add(self, memory: memoryview) -> None:
        """Send the next part; returns once there is room for it, and uses `memory` until it was sent.

        Raises what went wrong with an earlier one.
        """
        ...

    async def sent(self) -> None:
        """Return once all parts have been sent, where a client can tell; raises what went wrong with one."""
        ...

    async def complete(self, settle: Settle) -> None:
        """Have the store show the object."""
        ...

    async def abort(self, within: float | None) -> None:
        """Have the store forget it, where it was begun and not completed; what cannot be is left to the next start.

        Raises `TimeoutError` where that takes longer than `within` seconds; None is for as long as a request may take.
        """
        ...


class Client(Protocol):
    """Asks one bucket; all on one event loop. Names are the store's own. Every method raises `Failed`."""

    name: str
    """Of the library."""
    requests: Requests
    copies_parts: bool
    """Whether an upload copies what it is given to send, also what lasts."""
    deletes_at_once: int
    """How many objects one request can delete."""

    @property
    def creates_in_parts(self) -> bool:
        """Whether an upload can be a create."""
        ...

    @property
    def weaker(self) -> Mapping[str, str]:
        """What it does in a slower or weaker way than it could, and why; may grow."""
        ...

    async def check(self, prefix: str) -> None:
        """Raise unless the bucket is there and may be listed below `prefix`, which ends with a slash."""
        ...

    async def put(self, name: str, memory: memoryview, token: str, mode: PutMode, settle: Settle) -> None:
        """Store an object in one request."""
        ...

    def upload(self, name: str, token: str, mode: PutMode, part: int, window: int) -> Upload:
        """One in parts of `part` bytes, of which `window` are held at once."""
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects, no more than `deletes_at_once`; absent is not an error."""
        ...

    async def head(self, name: str) -> Found | None:
        """What there is."""
        ...

    async def first(
        self, name: str, start: int, count: int, into: memoryview | None = None
    ) -> tuple[Found, memoryview]:
        """At most `count` bytes from `start`, and what the object is; fewer where it ends before.

        They are read into `into`, which has room for them, or into memory of their own.
        """
        ...

    async def fill(self, name: str, into: memoryview, start: int, version: str | None) -> None:
        """Read what begins at `start`, of that version, into all of `into`."""
        ...

    async def scatter(self, name: str, into: Sequence[memoryview], start: int) -> None:
        """Fill one piece of memory after the other with what begins at `start`, by one request."""
        ...

    async def objects(self, prefix: str, start_after: str | None) -> list[ObjectInfo]:
        """The objects below the root whose keys begin with `prefix` and come after `start_after`, sorted by key."""
        ...

    async def unfinished(self, prefix: str) -> list[UploadInfo]:
        """The uploads for keys below the root that begin with `prefix`, as far as they can be found out."""
        ...

    async def forget(self, upload: UploadInfo) -> None:
        """Abort an upload; absent is not an error."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
