"""Spans: the range of an object that a get asks for, checked against what there is."""

from __future__ import annotations

import errno

from asyncckpt.errors import StorageError
from asyncckpt.storage.base import Buffer


def span(key: str, size: int, start: int, length: int | None, into: Buffer | None) -> int:
    """How many bytes to read from `start`; raises `StorageError` if the object or `into` does not have them."""
    count = size - start if length is None else length
    if start < 0 or count < 0 or start + count > size:
        asked = f"{count} bytes from {start}" if length is not None else f"everything from {start}"
        raise StorageError(errno.EINVAL, f"{key}: {asked} were asked for, but it has {size} bytes")
    if into is not None and (len(into) != count or memoryview(into).readonly):
        raise StorageError(errno.EINVAL, f"{key}: needs a writable buffer of {count} bytes to read into")
    return count


def check_length(key: str, found: int, promised: int | None) -> None:
    """Raise `StorageError` if a put announced another length than its parts have."""
    if promised is not None and found != promised:
        raise StorageError(errno.EINVAL, f"{key}: {promised} bytes were announced, but there are {found}")
