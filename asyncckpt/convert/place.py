"""Place: where what is converted goes. It is made beside there under a hidden name, and is there whole or not at all.

What stands there already is only replaced where that is wanted, and a folder only if an export has made it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from asyncckpt.errors import AsyncCkptError, ObjectExists, StorageDenied

_OURS = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "__*.distcp", ".metadata",
)  # fmt: skip
"""What lies in folders that an export has made."""


def taken(path: Path, *, overwrite: bool, folder: bool) -> str | None:
    """Why nothing can be put at `path`, or None."""
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


@contextmanager
def placed(path: Path, *, overwrite: bool, folder: bool) -> Iterator[Path]:
    """A hidden name beside `path` to write to, a folder that is there or a file; at the end it becomes `path`.

    Raises `StorageError` for what the disk refuses. Where the block raises, nothing is left.
    """
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        if folder:
            hidden.mkdir()
        yield hidden
        _sync(hidden)
        _publish(hidden, path, overwrite=overwrite)
    except OSError as error:
        if isinstance(error, AsyncCkptError):
            raise
        said = f"{path} cannot be written: {error.strerror or error}"
        raise StorageDenied(error.errno, said) if error.errno else StorageDenied(said) from error
    finally:
        _remove(hidden)


def _publish(hidden: Path, path: Path, *, overwrite: bool) -> None:
    if (reason := taken(path, overwrite=overwrite, folder=hidden.is_dir())) is not None:
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


def _sync(path: Path) -> None:
    files = [*path.iterdir()] if path.is_dir() else [path]
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    if path.is_dir():
        _sync_folder(path)


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
