"""Body: memory as a client sends it, without a copy: it takes no memoryview, but what can be read and iterated."""

from __future__ import annotations

from collections.abc import AsyncIterator

_PIECE = 1 << 20
"""Bytes handed to the transport at a time: few enough that other requests have their turns in between."""


class Body:
    """The bytes of one request, again from the beginning for each attempt."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._at = 0

    def __len__(self) -> int:
        return len(self._memory)

    def tell(self) -> int:
        """Where `read` goes on."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """As in files."""
        self._at = offset + (0, self._at, len(self._memory))[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Bytes for a signature over them, where one is wanted."""
        end = len(self._memory) if size < 0 else self._at + size
        found = bytes(self._memory[self._at : end])
        self._at += len(found)
        return found

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for at in range(0, len(self._memory), _PIECE):
            yield self._memory[at : at + _PIECE]
