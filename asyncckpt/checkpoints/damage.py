"""Damage: which failure of a store says that what it holds is damaged, and which says nothing about it.

What is damaged is passed over for an older checkpoint, and what was trained since is lost. So only what the store says
of the bytes themselves counts: they are not there, not all there, or cannot be read off the disk. One that refuses, is
out of reach or has no file descriptor left says nothing of them, however often it was asked.
"""

from __future__ import annotations

import errno
from types import TracebackType

from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointCorruptError,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    TransientError,
)

_OF_THE_BYTES = {None, errno.EINVAL, errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)}
"""A range that an object does not have (EINVAL), a disk that cannot read it, a file system whose checksum is wrong."""


class readable:
    """Around requests for the object at `what`: raises `CheckpointCorruptError` for damage.

    Raises the `StorageError`, which says that the store cannot be read, for what is none.
    """

    # Not a generator, as in `asyncckpt.storage.reasons`.
    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StorageError):
            raise _said(self._what, error) from error


def _said(what: str, error: StorageError) -> AsyncCkptError:
    if isinstance(error, ObjectNotFound):
        return CheckpointCorruptError(f"{what} is missing", "missing")
    if isinstance(error, StorageDenied | TransientError) or error.errno not in _OF_THE_BYTES:
        said = f"the store cannot be read: {error.strerror or error}"
        return type(error)(said) if error.errno is None else type(error)(error.errno, said)
    return CheckpointCorruptError(f"{what} cannot be read: {error}", "unreadable")
