"""Damage: which failure of a store says that what it holds is damaged, and which says nothing about it.

What is damaged is passed over for an older checkpoint, and what was trained since is lost. So only what the store says
of the bytes themselves counts: they are not there, not all there, or cannot be read off the disk. One that refuses, is
out of reach or has no file descriptor left says nothing of them, however often it was asked.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from asyncckpt.errors import CheckpointCorruptError, ObjectNotFound, StorageDenied, StorageError, TransientError

_OF_THE_BYTES = {None, errno.EINVAL, errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)}
"""A range that an object does not have (EINVAL), a disk that cannot read it, a file system whose checksum is wrong."""


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Around requests for the object at `what`: raises `CheckpointCorruptError` for damage.

    Raises the `StorageError`, which says that the store cannot be read, for what is none.
    """
    try:
        yield
    except ObjectNotFound as error:
        raise CheckpointCorruptError(f"{what} is missing", "missing") from error
    except StorageError as error:
        if isinstance(error, StorageDenied | TransientError) or error.errno not in _OF_THE_BYTES:
            said = f"the store cannot be read: {error.strerror or error}"
            raise (type(error)(said) if error.errno is None else type(error)(error.errno, said)) from error
        raise CheckpointCorruptError(f"{what} cannot be read: {error}", "unreadable") from error
