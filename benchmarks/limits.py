"""Limits of this machine, measured with the same bytes in the same run: a memory copy, and the disk."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from asyncckpt.worker.memory import mapped

_CHUNK = 16 << 20


def copy_seconds(nbytes: int) -> float:
    """One copy of `nbytes` between touched buffers, with all of torch's threads."""
    source, target = torch.ones(nbytes, dtype=torch.uint8), torch.ones(nbytes, dtype=torch.uint8)
    began = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - began


def write_seconds(nbytes: int, path: Path) -> float:
    """A sequential write of `nbytes` past the page cache, synced; the file is preallocated, as ours are.

    From ordinary pages, as whoever asks for none has them.
    """
    return _write(nbytes, path, memoryview(mmap.mmap(-1, _CHUNK)))


def huge_write_seconds(nbytes: int, path: Path) -> float:
    """The same from huge pages, as our staging memory has them; raises `OSError` where the kernel makes none."""
    _, memory = mapped(_CHUNK)
    memory.collapse(0, _CHUNK)
    return _write(nbytes, path, memory.view)


def _write(nbytes: int, path: Path, block: memoryview) -> float:
    block[:] = os.urandom(1 << 20) * 16
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        os.posix_fallocate(descriptor, 0, nbytes)
        began = time.perf_counter()
        for offset in range(0, nbytes, len(block)):
            os.pwrite(descriptor, block, offset)
        os.fsync(descriptor)
        return time.perf_counter() - began


def read_seconds(path: Path) -> float:
    """A sequential read of all of `path` past the page cache, into one touched buffer."""
    block = mmap.mmap(-1, _CHUNK)
    block.write(bytes(_CHUNK))
    with _opened(path, os.O_RDONLY) as descriptor:
        began = time.perf_counter()
        offset = 0
        while got := os.preadv(descriptor, [block], offset):
            offset += got
        return time.perf_counter() - began


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_DIRECT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
