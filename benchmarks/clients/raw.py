"""Raw: what the clients that move plain memory have in common."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator

from benchmarks.clients.place import Place

KEY = "object"
"""The one object; each upload replaces it."""

_RANDOM = 1 << 20


class Raw:
    """Base of them: `nbytes` of `memory`, touched."""

    def __init__(self, place: Place, nbytes: int) -> None:
        self.place = place
        self.memory = memoryview(mmap.mmap(-1, nbytes))
        pattern = os.urandom(_RANDOM)
        for at in range(0, nbytes, _RANDOM):
            self.memory[at : at + _RANDOM] = pattern[: nbytes - at]

    def change(self) -> None:
        """No client looks whether the store has these bytes already."""

    def pieces(self, size: int) -> Iterator[tuple[int, memoryview]]:
        """The memory, `size` bytes at a time, and where each begins."""
        return ((at, self.memory[at : at + size]) for at in range(0, len(self.memory), size))

    def clear(self) -> None:
        for _, piece in self.pieces(_RANDOM):
            piece[:] = bytes(len(piece))

    def checksum(self) -> int:
        return zlib.crc32(self.memory)

    def close(self) -> None:
        """Nothing to close."""
