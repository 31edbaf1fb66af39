"""Place: where what is converted goes. It is made beside there under a hidden name, and is there whole or not at all.

What stands there already is only replaced where that is wanted, and a folder only if an export has made it. Nobody
waits for a disk that hangs: so whatever is about it is done in `Place.do`.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from asyncckpt.errors import AsyncCkptError, ObjectExists, StorageDenied, TransientError
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.bounded import Asked, BoundedDisk

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_T = TypeVar("_T")

_OURS = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "__*.distcp", ".metadata",
)  # fmt: skip
"""What lies in folders that an export has made."""

_STEP: Final = 32 << 20
"""Bytes that are written at a time and are on the disk then: a slow one takes them in seconds."""

_SHOWING: Final = "giving it its name"


class Place:
    """Where an export goes: what is `hidden` beside `path` becomes that at its end.

    Nobody waits for a disk that hangs: what has not gone on for a minute raises `TransientError`.
    """

    def __init__(self, path: Path, *, overwrite: bool, folder: bool) -> None:
        self.path = path
        self.hidden = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        self._overwrite = overwrite
        self._folder = folder
        self._disk = _Disk(LocalStorage(path), self.hidden.name)
        self._asked: Asked | None = None
        self._files: list[Written] = []

    def taken(self) -> str | None:
        """Why nothing can be put there, or None."""
        return self.do("a look at it", lambda: _taken(self.path, overwrite=self._overwrite, folder=self._folder))

    @contextmanager
    def made(self) -> Iterator[None]:
        """Have `hidden` there, a folder, or the name of a file to be written; at the end it becomes `path`.

        Raises `StorageError` for what the disk refuses. Where the block raises, nothing is left, unless the disk hangs.
        """
        try:
            if self._folder:
                self.do("making a folder", self.hidden.mkdir)
            yield
            self.do("writing the last of it", self._finish)
            self.do(_SHOWING, self._show)
        except OSError as error:
            self._give_up()
            if isinstance(error, AsyncCkptError):
                raise
            said = f"{self.path} cannot be written: {error.strerror or error}"
            raise StorageDenied(error.errno, said) if error.errno else StorageDenied(said) from error
        except BaseException:
            self._give_up()
            raise

    def do(self, what: str, act: Callable[[], _T]) -> _T:
        """What `act` on this disk returns or raises; one at a time, and what takes long says that it `goes_on`."""

        def acts(asked: Asked) -> _T:
            self._asked = asked
            try:
                return act()
            finally:
                if asked.is_left:
                    self._drop()

        return self._disk.waited(what, acts)

    def goes_on(self) -> None:
        """What is done there now has gone on; raises `TransientError` where nobody waits for it any more."""
        if self._asked is not None:
            if self._asked.is_left:
                raise TransientError(f"{self.path}: {self._asked.what}: nobody waits for it any more")
            self._asked.goes_on()

    def file(self, path: Path) -> Written:
        """A new file of it, to be written in `do`, and closed there at the end, if it was not before."""
        self._files.append(made := Written(path, self.goes_on))
        return made

    def _finish(self) -> None:
        for written in self._files:
            written.close()
        for file in [*self.hidden.iterdir()] if self._folder else [self.hidden]:
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
            self.goes_on()
        if self._folder:
            _sync_folder(self.hidden)

    def _show(self) -> None:
        _publish(self.hidden, self.path, overwrite=self._overwrite)
        _remove(self.hidden)  # another name of the same file

    def _give_up(self) -> None:
        if not self._disk.is_held:  # or whatever holds it does that, should it ever come back
            self.do("removing what there is of it", self._drop)

    def _drop(self) -> None:
        for written in self._files:
            with suppress(OSError):
                written.close()
        _remove(self.hidden)


class Written(io.BufferedWriter):
    """A file that is written to the disk all along, so that no more is left for the end than that takes quickly.

    `goes_on` is called whenever some of it is there, and may raise.
    """

    def __init__(self, path: Path, goes_on: Callable[[], None]) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._goes_on = goes_on
        self._unsynced = 0

    def write(self, data: ReadableBuffer, /) -> int:
        """See `io.BufferedWriter.write`."""
        size = memoryview(data).nbytes
        if size <= _STEP:
            self._wrote(super().write(data))
        else:
            whole = memoryview(data).cast("B")
            for at in range(0, size, _STEP):
                self._wrote(super().write(whole[at : at + _STEP]))
        return size

    def _wrote(self, count: int) -> None:
        self._unsynced += count
        if self._unsynced >= _STEP:
            self.flush()
            os.fsync(self.fileno())
            self._unsynced = 0
            self._goes_on()


class _Disk(BoundedDisk):
    """One that says what may be there, and where."""

    def __init__(self, disk: LocalStorage, hidden: str) -> None:
        super().__init__(disk, disk)
        self._hidden = hidden

    def way_out_of(self, what: str) -> str:
        """See `Bounded.way_out_of`."""
        if what == _SHOWING:
            return (
                "; whether it is there, or will be, is not known: mend that (umount -f, or its server), look, and ask "
                "again if it is not"
            )
        return f"; mend that (umount -f, or its server), remove {self._hidden} beside it, if it is there, and ask again"


def _taken(path: Path, *, overwrite: bool, folder: bool) -> str | None:
    if not path.parent.is_dir():
        return f"{path.parent} is no folder: make it, or give another name"
    if not os.path.lexists(path):
        return None
    if not overwrite:
        return f"{path} is there already: give another name, or --overwrite"
    if path.is_symlink():
        return f"{path} is a link: name what it leads to"
    if folder != path.is_dir():
        return f"{path} is a {'folder' if path.is_dir() else 'file'}, and what would take its place is none: remove it"
    if folder and (other := _foreign(path)) is not None:
        return f"{path} holds {other}, which no export has put there: give another name, or remove it by hand"
    return None


def _foreign(folder: Path) -> str | None:
    """What in `folder` is not an export's."""
    for entry in folder.iterdir():
        is_ours = any(fnmatchcase(entry.name, pattern) for pattern in _OURS)
        if not is_ours or entry.is_dir() or entry.is_symlink():
            return entry.name
    return None


def _publish(hidden: Path, path: Path, *, overwrite: bool) -> None:
    if (reason := _taken(path, overwrite=overwrite, folder=hidden.is_dir())) is not None:
        raise ObjectExists(reason)  # somebody else was faster
    if not hidden.is_dir() and not overwrite:
        _create(hidden, path)
    elif path.is_dir():
        _exchange(hidden, path)
    else:
        hidden.replace(path)
    _sync_folder(path.parent)


def _create(hidden: Path, path: Path) -> None:
    """As `path`, which must not be there by now either."""
    try:
        os.link(hidden, path)
    except FileExistsError:
        raise ObjectExists(f"{path} is there by now: give another name, or --overwrite") from None
    except OSError:  # a file system without hard links
        hidden.replace(path)


def _exchange(hidden: Path, path: Path) -> None:
    """No call replaces a folder that is not empty: for a moment nothing has the name."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(8)}.old")
    path.rename(old)
    try:
        hidden.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(hidden: Path) -> None:
    if hidden.is_dir():
        shutil.rmtree(hidden, ignore_errors=True)
    else:
        with suppress(OSError):
            hidden.unlink()
