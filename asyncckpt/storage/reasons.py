"""Reasons: what an errno means to the caller, in one place."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import TracebackType

from asyncckpt.errors import ObjectExists, ObjectNotFound, StorageDenied, StorageError, TransientError

_DENIED = {
    errno.EACCES: "permission denied; give this user access to it, or choose another root",
    errno.EPERM: "not permitted; check owner, file attributes and mount options, or choose another root",
    errno.EROFS: "the file system is read-only; remount it writable, or choose another root",
    errno.ENOSPC: "no space left; free some (df -h and df -i), keep fewer checkpoints, or choose another root",
    errno.EDQUOT: "the disk quota is used up; free some space, have it raised, or choose another root",
    errno.EFBIG: "larger than a file may be; raise the limit (ulimit -f), or choose another file system",
    errno.ENOTDIR: "a part of this path is a file, not a folder; remove that file, or choose another root",
    errno.EISDIR: "there is a folder in the place of this file; remove it, or choose another root",
}
_TRANSIENT = {errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EBUSY}

UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})
"""What a file system answers that does not know a call at all; for links EPERM says the same."""

UNCERTAIN = frozenset({errno.EIO, errno.ETIMEDOUT, errno.ESTALE})
"""Errors of a rename or link that a server may have carried out all the same."""


def translate(error: OSError, path: str) -> StorageError:
    """The same error as this package raises it: errno kept, and a sentence that says what to do."""
    number = error.errno
    if number in _DENIED:
        return StorageDenied(number, f"{path}: {_DENIED[number]}")
    if number in _TRANSIENT:
        return TransientError(number, f"{path}: {error.strerror}")
    if number == errno.ENOENT:
        return ObjectNotFound(number, f"{path}: there is no such object")
    if number == errno.EEXIST:
        return ObjectExists(number, f"{path}: there is an object of that name")
    return StorageError(number, f"{path}: {error.strerror or error}")


class Around:
    """Around calls: an error for which `meant` has another is raised as that."""

    # Not a generator: since Python 3.12 an error that passes one which raises another keeps itself alive, and with it
    # all that its frames have, files and memory too, until the garbage collector comes.
    def __init__(self, meant: Callable[[BaseException], Exception | None]) -> None:
        self._meant = meant

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (meant := self._meant(error)) is None:
            return
        try:
            raise meant from error
        finally:
            del meant  # whose traceback has this frame


def translated(path: str) -> Around:
    """Around calls about `path`: their OSError is raised translated."""

    def meant(error: BaseException) -> StorageError | None:
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            return translate(error, path)
        return None

    return Around(meant)


def named(error: OSError) -> str:
    """An error's symbolic name, for a recorded fallback: ``EINVAL``."""
    return errno.errorcode.get(error.errno or 0, os.strerror(error.errno or 0))
