"""Lines: a file that one process appends to, whole lines only.

Each line is handed to the system in one write before `append` returns, so that it outlives the process; `sync` makes it
outlive the machine. A file has one writer, which holds a lock on it, and so may cut off what a crash or a full disk
left of a line; a second writer takes the next file.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_FAR = 1 << 40  # Windows locks bytes, and these nobody reads
_BLOCK = 1 << 16


class Lines:
    """An open file of lines; `torn` is what a crash had left of its last one, which is cut off."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._length = 0
        self.torn = self._repair()

    def append(self, lines: bytes) -> None:
        """Write whole lines. Raises `OSError`, and then nothing of them is there."""
        try:
            self._write(lines)
        except OSError:
            with suppress(OSError):  # the start of a line without its end would spoil the next one
                self._cut(self._length)
            raise
        self._length += len(lines)

    def _write(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _cut(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def _repair(self) -> bytes:
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        torn = self._tail(size)
        self._length = size - len(torn)
        if torn:
            self._cut(self._length)
        return torn

    def _tail(self, size: int) -> bytes:
        """What follows the last line's end."""
        found = b""
        while len(found) < size:
            start = max(0, size - len(found) - _BLOCK)
            os.lseek(self._descriptor, start, os.SEEK_SET)
            block = os.read(self._descriptor, size - len(found) - start)
            _, end, rest = block.rpartition(b"\n")
            found = rest + found
            if end or not block:
                break
        return found

    def sync(self) -> None:
        """Make all lines durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file; another writer may have it."""
        os.close(self._descriptor)


def open_lines(folder: Path, stem: str) -> Lines:
    """The first of ``{stem}.jsonl``, ``{stem}-2.jsonl``, ... that nobody else is writing. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = folder / (f"{stem}.jsonl" if number == 1 else f"{stem}-{number}.jsonl")
        found = try_lines(path)
        if found is not None:
            return found
    raise AssertionError("there is always a next number")


def try_lines(path: Path) -> Lines | None:
    """The file at `path` for writing, or None where another writer holds it. Raises `OSError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        if _is_locked(descriptor):
            return Lines(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_locked(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        # A file system without locks: then nobody has one, and two writers of one folder are for the user to avoid.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
    return True
