"""Host memory, as the devices know it: declared accesses, and memory of the caller's that counts as pinned."""

from __future__ import annotations

import threading

from torch import Tensor

from asyncckpt.testing.simacc import _C


def host_access(t: Tensor, write: bool = False) -> None:
    """Declare that this thread reads, or writes, the bytes of CPU tensor `t` now.

    The simulator cannot see the host's own loads and stores, so tests declare those that matter. A race is reported
    where a copy to or from these bytes is not known, by this thread, to be done; and later, where a copy is queued
    that this access is not ordered before. Raises `ValueError` for a tensor of a device.
    """
    _C.host_access(t, write, threading.current_thread().name)


def host_register(pointer: int, nbytes: int) -> None:
    """Pin memory of the caller's, as ``cudaHostRegister`` does: copies to and from it no longer block.

    Raises `ValueError` unless it begins at a page, and `RuntimeError` for memory that is pinned already.
    """
    _C.register_host_memory(pointer, nbytes)


def host_unregister(pointer: int) -> None:
    """Undo `host_register`. A copy that this thread does not know to be done is reported as a race.

    Raises `ValueError` for a pointer that was not registered.
    """
    _C.unregister_host_memory(pointer)
