"""Memory: what a snapshot lies in, so that a worker process can have it too."""

from __future__ import annotations

import mmap
import os
import sys

if sys.platform == "linux":
    import fcntl

from asyncckpt.worker.descriptors import MEMORY, Descriptor


def mapped(size: int) -> tuple[Descriptor | None, mmap.mmap]:
    """`size` bytes, and the descriptor by which another process can map them, where there is one; raises `OSError`."""
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        memfd = Descriptor(os.memfd_create(MEMORY, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        os.ftruncate(memfd.fileno(), size)
        # Another process that has it mapped can rely on it: a page that is gone would end it with SIGBUS.
        fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        memory = mmap.mmap(memfd.fileno(), size)
        # A forked data loader must not keep gigabytes of snapshot mapped.
        memory.madvise(mmap.MADV_DONTFORK)
        return memfd, memory
    return None, mmap.mmap(-1, size)
