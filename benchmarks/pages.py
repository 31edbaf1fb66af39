"""Page cache: making sure that a file's bytes are not in it, so that reading them is cold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 4096

_ATTEMPTS = 20
"""A page on its way to a list of the kernel's is passed over, and is to be had a moment later."""


def files(root: Path) -> Iterator[Path]:
    """Every file at or below `root`."""
    yield from [root] if root.is_file() else (p for p in root.rglob("*") if p.is_file() and not p.is_symlink())


def drop(root: Path) -> None:
    """Take every file at or below `root` out of the page cache; raises `RuntimeError` if one stays."""
    for path in files(root):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if not any(_dropped(descriptor) for _ in range(_ATTEMPTS)):
                raise RuntimeError(f"{path} stays in the page cache: something maps it")
        finally:
            os.close(descriptor)


def _dropped(descriptor: int) -> bool:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return not _is_cached(descriptor)


def _is_cached(descriptor: int) -> bool:
    middle = os.fstat(descriptor).st_size // 2 // _BLOCK * _BLOCK
    try:
        return os.preadv(descriptor, [bytearray(1)], middle, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False


def disk_bytes(root: Path) -> int:
    """Bytes that the files below `root` take of the disk, hard links once."""
    blocks = {status.st_ino: status.st_blocks for path in files(root) for status in [path.stat()]}
    return sum(blocks.values()) * 512


def sync(root: Path) -> None:
    """fsync every file and folder at or below `root`, and its folder: what a library that does not do so lacks."""
    for path in [root, *root.rglob("*"), root.parent]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
