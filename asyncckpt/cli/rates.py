"""Rates: how fast bytes go somewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from asyncckpt.sizes import size
from asyncckpt.storage.base import Buffer, Storage


@dataclass(frozen=True, slots=True)
class Rate:
    """So many bytes in so many seconds."""

    bytes: int
    seconds: float

    @property
    def each(self) -> float:
        """Bytes in a second."""
        return self.bytes / max(self.seconds, 1e-9)

    def of(self, nbytes: float) -> float:
        """Seconds for so many bytes."""
        return nbytes / self.each

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"bytes": self.bytes, "seconds": self.seconds, "rate": self.each}

    def __str__(self) -> str:
        return f"{size(self.each)}/s"


async def written(storage: Storage, key: str, data: Buffer) -> Rate:
    """How fast `data` becomes one object."""
    began = time.monotonic()
    await storage.put(key, [data], length=len(data))
    return Rate(len(data), time.monotonic() - began)


async def read(storage: Storage, key: str, into: Buffer) -> Rate:
    """How fast it is read back."""
    began = time.monotonic()
    await storage.get(key, length=len(into), into=into)
    return Rate(len(into), time.monotonic() - began)
