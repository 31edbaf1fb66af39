"""Descriptor: a file descriptor that is closed once, and in every forked child at once.

A data loader that is forked while a training saves would keep staging memory that the training has given back, and its
end of the socket would hide from the worker process that the trainer is gone.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet

MEMORY = "asyncckpt-arena"
"""What arenas are called where the kernel lists a process's files."""


class Closable(Protocol):
    """What holds a descriptor."""

    def close(self) -> None: ...


_open: WeakSet[Closable] = WeakSet()


def close_in_children(holder: Closable) -> None:
    """Have `holder` closed at once in every child that this process forks."""
    _open.add(holder)


def _forked() -> None:
    holders = list(_open)
    for holder in holders:
        holder.close()
    if holders and sys.platform == "linux":
        _forget_memory()


def _forget_memory() -> None:
    """Let go of the arenas' memory: every mapping keeps a duplicate of its descriptor until it is collected.

    Something else takes the number: a mapping that is collected closes it, whatever it is then.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the one that listed them
            if os.readlink(f"/proc/self/fd/{number}").startswith(f"/memfd:{MEMORY}"):
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Descriptor:
    """Owns the descriptor `number`."""

    def __init__(self, number: int) -> None:
        self._number: int | None = number
        close_in_children(self)

    def fileno(self) -> int:
        """The number; raises `ValueError` once it is closed."""
        if self._number is None:
            raise ValueError("this descriptor is closed")
        return self._number

    def close(self) -> None:
        """Close it, unless it is closed."""
        number, self._number = self._number, None
        if number is not None:
            with suppress(OSError):
                os.close(number)

    def __del__(self) -> None:
        self.close()
