"""Damage: which failure of a store says that what it holds is damaged, and which says nothing about it.

What is damaged is passed over for an older checkpoint, and what was trained since is lost. So only what the store says
of the bytes themselves counts: they are not there, not all there, or cannot be read off the disk. One that refuses, is
out of reach or has no file descriptor left says nothing of them, however often it was asked.
"""

from __future__ import annotations

import errno

from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointCorruptError,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    TransientError,
)
from asyncckpt.storage.reasons import Around

_OF_THE_BYTES = {None, errno.EINVAL, errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)}
"""A range that an object does not have (EINVAL), a disk that cannot read it, a file system whose checksum is wrong."""


def readable(what: str) -> Around:
    """Around requests for the object at `what`: raises `CheckpointCorruptError` for damage.

    Raises the `StorageError`, which says that the store cannot be read, for what is none.
    """
    return Around(lambda error: _said(what, error) if isinstance(error, StorageError) else None)


def _said(what: str, error: StorageError) -> AsyncCkptError:
    if isinstance(error, ObjectNotFound):
        return CheckpointCorruptError(f"{what} is missing", "missing")
    if isinstance(error, StorageDenied | TransientError) or error.errno not in _OF_THE_BYTES:
        said = f"the store cannot be read: {error.strerror or error}"
        return type(error)(said) if error.errno is None else type(error)(error.errno, said)
    return CheckpointCorruptError(f"{what} cannot be read: {error}", "unreadable")
