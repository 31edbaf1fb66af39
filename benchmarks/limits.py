"""Limits of this machine, measured with the same bytes in the same run: a memory copy, and the disk."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import torch


def copy_seconds(nbytes: int) -> float:
    """One copy of `nbytes` between touched buffers, with all of torch's threads."""
    source, target = torch.ones(nbytes, dtype=torch.uint8), torch.ones(nbytes, dtype=torch.uint8)
    began = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - began


def write_seconds(nbytes: int, folder: Path) -> float:
    """A sequential write of `nbytes` past the page cache, synced; the file is preallocated, as ours are."""
    block = mmap.mmap(-1, 16 << 20)
    block.write(os.urandom(1 << 20) * 16)
    path = folder / "limit.bin"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_DIRECT", 0))
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
        began = time.perf_counter()
        for offset in range(0, nbytes, len(block)):
            os.pwrite(descriptor, memoryview(block), offset)
        os.fsync(descriptor)
        return time.perf_counter() - began
    finally:
        os.close(descriptor)
        path.unlink()
