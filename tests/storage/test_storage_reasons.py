"""What an errno becomes."""

from __future__ import annotations

import errno
import os

import pytest

from asyncckpt.errors import ObjectExists, ObjectNotFound, StorageDenied, StorageError, TransientError
from asyncckpt.storage.reasons import translate


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.EACCES, StorageDenied, "permission denied"),
        (errno.EPERM, StorageDenied, "not permitted"),
        (errno.EROFS, StorageDenied, "read-only"),
        (errno.ENOSPC, StorageDenied, "no space left"),
        (errno.EDQUOT, StorageDenied, "quota"),
        (errno.EFBIG, StorageDenied, "ulimit -f"),
        (errno.ENOTDIR, StorageDenied, "is a file, not a folder"),
        (errno.EISDIR, StorageDenied, "a folder in the place"),
        (errno.EAGAIN, TransientError, ""),
        (errno.EINTR, TransientError, ""),
        (errno.ETIMEDOUT, TransientError, ""),
        (errno.EBUSY, TransientError, ""),
        (errno.ENOENT, ObjectNotFound, "no such object"),
        (errno.EEXIST, ObjectExists, "of that name"),
        (errno.EIO, StorageError, "Input/output error"),
        (errno.ENAMETOOLONG, StorageError, "name too long"),
    ],
)
def test_each_errno_has_its_error(number: int, kind: type[StorageError], says: str) -> None:
    error = translate(OSError(number, os.strerror(number)), "/root/key")
    assert type(error) is kind
    assert error.errno == number
    assert "/root/key: " in str(error)
    assert says in str(error)
    if kind is StorageDenied:
        assert any(way_out in str(error) for way_out in ("choose another root", "choose another file system"))


def test_an_error_without_a_number_keeps_its_message() -> None:
    assert "something odd" in str(translate(OSError("something odd"), "/root/key"))
