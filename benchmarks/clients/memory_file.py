"""Memory as a file, for clients that read and write nothing else: without a copy of its own."""

from __future__ import annotations

import io
from typing import Any


class MemoryFile(io.RawIOBase):
    """Of as many bytes as the memory has."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._at = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._memory))[whence]
        return self._at

    def readinto(self, into: Any) -> int:
        found = self._memory[self._at : self._at + len(into)]
        into[: len(found)] = found
        self._at += len(found)
        return len(found)

    def write(self, data: Any) -> int:
        self._memory[self._at : self._at + len(data)] = data
        self._at += len(data)
        return len(data)
