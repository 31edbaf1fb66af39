"""Storage: objects under one root, and nothing more.

The protocol is this small so that everything above it (commit, fence, retention, restore) is written once and
proven once: a backend only has to keep the promises below, and the conformance suite in
``asyncckpt.testing.storage`` holds it to them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from asyncckpt.errors import StorageError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes; a memoryview has format ``B`` and one dimension."""

Parts: TypeAlias = Sequence[Buffer] | AsyncIterable[Buffer]
"""The bytes of one object in order; an async iterable is written behind whoever fills it."""


class Lasting:
    """Parts that come one after the other, and stay as they are until the put that takes them has ended.

    Of any other async iterable a part is gone when the next is asked for, and a store that sends several at once has to
    copy it. `at_most` is what they have together at most, in bytes, where nobody can say more before they are there.
    """

    def __init__(self, parts: AsyncIterable[Buffer], at_most: int | None = None) -> None:
        self._parts = parts
        self.at_most = at_most

    def __aiter__(self) -> AsyncIterator[Buffer]:
        return aiter(self._parts)


PutMode: TypeAlias = Literal["overwrite", "create"]


Exclusive: TypeAlias = Literal["whole", "torn", "none"]
"""What ``mode="create"`` gives: a created object is there whole or not at all (``whole``); exclusive, but a
power loss may leave a torn object under its name (``torn``); not exclusive (``none``)."""

_NAME = r"[a-z0-9_-][a-z0-9._-]*"
_KEY = re.compile(f"{_NAME}(/{_NAME})*")


def check_key(key: str) -> str:
    """Return `key` if it stays below the root and uses only allowed characters; raise `StorageError` if not.

    Keys come out of manifests, that is from outside: this is the line that no path from there may cross.
    Names that begin with a dot are the backend's own (temporaries) and are refused too.
    """
    if not _KEY.fullmatch(key):
        raise StorageError(f"not a key of this store: {key!r}")
    return key


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A whole object: its key and its length in bytes."""

    key: str
    length: int


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """A put that never finished: the key it was meant for and the backend's name for what it left behind."""

    key: str
    upload: str


_CONCURRENT_GETS = 16


class Storage(Protocol):
    """Objects under one root.

    Keys are relative, ``/``-separated, of the characters ``[a-z0-9._-]`` in each component, and no key is a
    prefix directory of another. Every method raises only `StorageError` and its subclasses.
    """

    @property
    def url(self) -> str:
        """The root as a person would type it."""
        ...

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """What this store does in a slower or weaker way than it could, and why; grows as puts find out.

        For example ``{"direct_io": "O_DIRECT refused by the file system (EINVAL)"}``. Empty is the best case.
        """
        ...

    async def probe(self) -> Exclusive:
        """Find out how creates behave here, by trying; leaves nothing behind."""
        ...

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """Store an object; atomic and durable when it returns, and nothing visible when it raises.

        ``mode="create"`` raises `ObjectExists` if the key exists, and exactly one of several concurrent
        creates succeeds. `length` is the total in bytes where it is known before the parts are: the store may
        reserve it. `OutcomeUnknown` says that the object may be there or not. An exception raised by `parts`
        aborts the put and is raised unchanged.
        """
        ...

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """Read a range: `length` bytes from `start`, to the end where `length` is None.

        The bytes land in `into` (a writable buffer of exactly that length) where it is given. Raises
        `ObjectNotFound`; a range that reaches past the end is a `StorageError` and never a short read.
        """
        ...

    async def get_each(self, keys: Sequence[str]) -> list[memoryview | StorageError]:
        """The whole of each of many small objects, in their order; for one that cannot be read, why.

        There may be ten thousand of them, as many as checkpoints are listed. A store that can do better than a few at a
        time has a way of its own.
        """
        return await each_got(self, keys)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's length, or None if there is none."""
        ...

    def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """Every whole object whose key starts with `prefix`, sorted by key, after `start_after` if given.

        Fresh: an object whose put returned before the call is in it. An absent root lists as empty; one that
        cannot be read, or is not a directory, raises.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; an absent key is not an error. All are tried before the first failure is raised."""
        ...

    def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """Puts under `prefix` that never finished: temporary files, multipart uploads.

        On file systems a folder that stands empty is one too; its key ends with a slash.
        """
        ...

    async def abort(self, upload: UploadInfo) -> None:
        """Remove what an unfinished put left behind; absent is not an error."""
        ...

    async def aclose(self) -> None:
        """Release threads and connections; the storage is not used afterwards."""
        ...


async def each_got(
    storage: Storage, keys: Sequence[str], most: int = _CONCURRENT_GETS
) -> list[memoryview | StorageError]:
    """`Storage.get_each` by getting them one by one, `most` at a time."""
    limit = asyncio.Semaphore(most)

    async def one(key: str) -> memoryview | StorageError:
        async with limit:
            try:
                return await storage.get(key)
            except StorageError as error:
                return error

    return await asyncio.gather(*map(one, keys))


class Opened(Protocol):
    """One object, readable until it is closed, also when it is deleted meanwhile; methods block, in any thread."""

    def fill(self, into: memoryview, start: int) -> None:
        """Read what begins at `start` into all of `into`; past the end is a `StorageError` and never a short read."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Opening(Protocol):
    """A store whose objects can be kept open, and that gives again at once what was just read (local disks).

    It blocks, unlike all else here: whoever reads piece by piece wants each piece in the thread that works on it.
    """

    def open(self, key: str) -> Opened:
        """Open an object. Raises `ObjectNotFound`, or another `StorageError`."""
        ...


@runtime_checkable
class Scattering(Protocol):
    """A store of which one request can fill several pieces of memory, so that what is many needs few of them."""

    async def scatter(self, key: str, start: int, into: Sequence[memoryview]) -> None:
        """Read what begins at `start` into one piece after the other, all of each; raises as `Storage.get` does."""
        ...


@runtime_checkable
class Retrying(Protocol):
    """A store that makes failed requests again by itself, and says how often."""

    @property
    def retries(self) -> Mapping[str, int]:
        """How many attempts were made again so far, by what had failed: ``slow_down``, ``timeout``, ``reset``, ..."""
        ...


@runtime_checkable
class Dated(Protocol):
    """A store that says when it has stored an object, by a clock of its own."""

    async def stored_at(self, key: str) -> float | None:
        """When that was, in seconds since the epoch; many stores tell whole ones. None where it does not say.

        Raises `ObjectNotFound`.
        """
        ...


@runtime_checkable
class Linking(Protocol):
    """A store that can also show a key under a second, human-friendly name (local disks: a relative symlink).

    Links are a convenience for people and shells. Nothing in this package reads them.
    """

    async def link(self, name: str, key: str) -> None:
        """Point `name` at the object or folder `key`, atomically replacing what it pointed at before."""
        ...
