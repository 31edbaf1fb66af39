"""Files: every file system call that `LocalStorage` makes, one short method each.

Nothing else in the package touches the disk, so that a test can take an ability away, fail the n-th call,
record every effect or stop before one by subclassing `Files` (see ``asyncckpt.testing.files`` and ``.crash``).
Methods raise plain `OSError`; what a platform cannot do at all raises it with ``ENOTSUP``. No method here
calls another public one: a subclass that counts calls sees each exactly once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
import threading
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

if sys.platform != "win32":
    import fcntl

Kind: TypeAlias = Literal["file", "folder", "link", "other"]

if sys.platform == "win32":
    _READ = os.O_RDONLY | os.O_BINARY
    _CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_BINARY
else:
    _READ = os.O_RDONLY | os.O_NOFOLLOW
    _CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder; `length` in bytes."""

    name: str
    kind: Kind
    length: int


class Files:
    """The real file system."""

    def __init__(self) -> None:
        # Windows reads and writes at the descriptor's one position: seek and transfer must not interleave.
        self._position = threading.Lock()

    # -- looking ---------------------------------------------------------------------------------

    def scan(self, path: str, after: str = "") -> list[Entry]:
        """The names in a folder, in no order; links are not followed. Those surely before `after` are left out.

        That spares a look at each: there may be ten thousand, and who asks what came last has seen them.
        """
        above = frozenset(after[:end] for end in range(len(after)))  # folders that what comes after may lie in
        late = [name for name in os.listdir(path) if name >= after or name in above]
        return [entry for name in late if (entry := _entry(path, name)) is not None]

    def look(self, path: str) -> os.stat_result:
        return os.lstat(path)

    def open(self, path: str) -> int:
        """Open for reading; a link at the end of `path` is refused with ELOOP."""
        return os.open(path, _READ)

    def status(self, descriptor: int) -> os.stat_result:
        return os.fstat(descriptor)

    def read(self, descriptor: int, into: memoryview, offset: int) -> int:
        """Read up to ``len(into)`` bytes at `offset`; 0 at the end of the file."""
        if sys.platform == "win32":
            with self._position:
                os.lseek(descriptor, offset, os.SEEK_SET)
                data = os.read(descriptor, len(into))
            into[: len(data)] = data
            return len(data)
        else:
            return os.preadv(descriptor, [into], offset)

    # -- one file --------------------------------------------------------------------------------

    def create(self, path: str) -> int:
        """Make a new file and open it for writing; FileExistsError if there is anything of that name."""
        return os.open(path, _CREATE, 0o666)

    def create_unnamed(self, folder: str) -> int:
        """Make a file without a name on the file system of `folder`: gone at a crash unless linked."""
        if sys.platform == "linux":
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
        else:
            raise _unsupported("unnamed files")

    def direct(self, descriptor: int, on: bool) -> None:
        """Turn the page cache off or on again for one open file."""
        if sys.platform == "linux":
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
        elif sys.platform == "darwin":
            fcntl.fcntl(descriptor, fcntl.F_NOCACHE, int(on))
        else:
            raise _unsupported("direct I/O")

    def reserve(self, descriptor: int, length: int) -> None:
        """Allocate `length` bytes, zero-filled, without writing them."""
        if sys.platform == "linux":
            # Not os.posix_fallocate: where the file system cannot, glibc would write every block instead.
            while _libc().fallocate(descriptor, 0, ctypes.c_longlong(0), ctypes.c_longlong(length)):
                # On some (tmpfs) any signal ends it, as that does which stops a process for a while; what Python calls
                # itself it calls again.
                if ctypes.get_errno() != errno.EINTR:
                    raise _last_error()
        else:
            raise _unsupported("preallocation")

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write at `offset`; returns how many bytes were taken, which may be fewer."""
        if sys.platform == "win32":
            with self._position:
                os.lseek(descriptor, offset, os.SEEK_SET)
                return os.write(descriptor, data)
        else:
            return os.pwrite(descriptor, data, offset)

    def truncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes and length durable."""
        if sys.platform == "darwin":
            # fsync there leaves the bytes in the drive's cache.
            try:
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EINVAL):
                    raise
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    # -- names -----------------------------------------------------------------------------------

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        if sys.platform != "win32":
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        else:
            raise _unsupported("syncing a folder")

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; FileExistsError if it is taken."""
        os.link(source, target)

    def link_unnamed(self, descriptor: int, target: str) -> None:
        """Give an unnamed file its name; FileExistsError if it is taken."""
        # Without a directory descriptor Python calls link(2), which does not follow; an absolute path ignores it.
        os.link(f"/proc/self/fd/{descriptor}", target, src_dir_fd=descriptor, follow_symlinks=True)

    def replace(self, source: str, target: str) -> None:
        """Rename, replacing what has that name."""
        os.replace(source, target)

    def rename(self, source: str, target: str) -> None:
        """Rename; FileExistsError if the name is taken."""
        if sys.platform == "win32":
            os.rename(source, target)
        elif sys.platform == "linux":
            _rename("renameat2", _AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE)
        elif sys.platform == "darwin":
            _rename("renamex_np", source, target, _RENAME_EXCL)
        else:
            raise _unsupported("renaming without replacing")

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        os.mkdir(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)


def _entry(path: str, name: str) -> Entry | None:
    try:
        status = os.lstat(os.path.join(path, name))
    except FileNotFoundError:  # removed since the folder was read
        return None
    return Entry(name, _kind(status.st_mode), status.st_size)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _rename(function: str, *arguments: int | str) -> None:
    call = getattr(_libc(), function, None)
    if call is None:  # musl has no renameat2
        raise _unsupported("renaming without replacing")
    if call(*(os.fsencode(value) if isinstance(value, str) else value for value in arguments)):
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _unsupported(what: str) -> OSError:
    return OSError(errno.ENOTSUP, f"{what}: not on {sys.platform}")
