"""Reading: one object's file, opened once and read by several threads at once."""

from __future__ import annotations

import errno
import stat

from asyncckpt.errors import ObjectNotFound, StorageError
from asyncckpt.storage.files import Files
from asyncckpt.storage.folders import Folders
from asyncckpt.storage.reasons import translated


class Source:
    """The file of one object; methods block and raise OSError. `close` in any case, also after a failed `open`."""

    def __init__(self, files: Files, folders: Folders, path: str) -> None:
        self._files = files
        self._folders = folders
        self.path = path
        self.descriptor = -1
        self.length = 0

    def open(self) -> None:
        """Open the file and learn its length; `ObjectNotFound` for anything but a file, links included."""
        try:
            self.descriptor = self._files.open(self.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            self._folders.check_root()
            raise self._not_found() from error
        status = self._files.status(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise self._not_found()
        self.length = status.st_size

    def fill(self, into: memoryview, start: int) -> None:
        """Read from `start` until `into` is full."""
        while into:
            got = self._files.read(self.descriptor, into, start)
            if not got:
                raise self.ended_early()
            start += got
            into = into[got:]

    def close(self) -> None:
        if self.descriptor >= 0:
            self._files.close(self.descriptor)

    def ended_early(self) -> StorageError:
        return StorageError(errno.EIO, f"{self.path}: became shorter than {self.length} bytes while being read")

    def _not_found(self) -> ObjectNotFound:
        return ObjectNotFound(errno.ENOENT, f"{self.path}: there is no such object")


class Kept:
    """The `Opened` object of an open `Source`."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def fill(self, into: memoryview, start: int) -> None:
        with translated(self._source.path):
            self._source.fill(into, start)

    def close(self) -> None:
        with translated(self._source.path):
            self._source.close()


def length_of(files: Files, folders: Folders, path: str) -> int | None:
    """The length of an object's file; None for anything but a file."""
    try:
        status = files.look(path)
    except (FileNotFoundError, NotADirectoryError):
        folders.check_root()
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
