"""Memory storage: objects in a dict, for tests and notebooks, and as the shortest complete `Storage`."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence

from asyncckpt.errors import ObjectExists, ObjectNotFound, StorageError
from asyncckpt.storage.base import Buffer, Exclusive, ObjectInfo, Parts, PutMode, UploadInfo, check_key
from asyncckpt.storage.spans import check_length, span


class MemoryStorage:
    """A `Storage` that lives as long as the instance, usable from several threads and event loops at once."""

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """``memory://`` and the name."""
        return f"memory://{self._name}"

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """Nothing: there is nothing that could be missing."""
        return {}

    async def probe(self) -> Exclusive:
        """Creates are exclusive and whole."""
        return "whole"

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """Store a copy of an object, see `Storage.put`."""
        check_key(key)
        content = await _joined(parts)
        check_length(key, len(content), length)
        with self._lock:
            if mode == "create" and key in self._objects:
                raise ObjectExists(errno.EEXIST, f"{key}: there is an object of that name")
            self._objects[key] = content
        return ObjectInfo(key, len(content))

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """Read a range, see `Storage.get`; without `into` it is read-only."""
        content = self._objects.get(check_key(key))
        if content is None:
            raise ObjectNotFound(errno.ENOENT, f"{key}: there is no such object")
        count = span(key, len(content), start, length, into)
        found = memoryview(content)[start : start + count]
        if into is None:
            return found
        target = memoryview(into)
        target[:] = found
        return target

    async def get_each(self, keys: Sequence[str]) -> list[memoryview | StorageError]:
        """Read many objects whole, see `Storage.get_each`."""
        return [self._whole(check_key(key)) for key in keys]

    def _whole(self, key: str) -> memoryview | StorageError:
        content = self._objects.get(key)
        if content is None:
            return ObjectNotFound(errno.ENOENT, f"{key}: there is no such object")
        return memoryview(content)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's length, or None if there is none."""
        content = self._objects.get(check_key(key))
        return None if content is None else ObjectInfo(key, len(content))

    async def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """Every object under `prefix`, sorted, as they are when the iteration begins."""
        with self._lock:
            found = sorted((key, len(content)) for key, content in self._objects.items())
        for key, length in found:
            if key.startswith(prefix) and (start_after is None or key > start_after):
                yield ObjectInfo(key, length)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; an absent key is not an error."""
        for key in [check_key(key) for key in keys]:
            with self._lock:
                self._objects.pop(key, None)

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """None: an unfinished put leaves nothing behind."""
        nothing: tuple[UploadInfo, ...] = ()
        for upload in nothing:
            yield upload

    async def abort(self, upload: UploadInfo) -> None:
        """Nothing to remove."""

    async def aclose(self) -> None:
        """Nothing to release; the objects stay."""


async def _joined(parts: Parts) -> bytes:
    if not isinstance(parts, AsyncIterable):
        return b"".join(parts)
    # Copied one by one: the caller may fill the same buffer again for the next part.
    return b"".join([bytes(part) async for part in parts])
