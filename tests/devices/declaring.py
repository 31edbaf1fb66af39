"""Declaring: the worker's reads of an arena, told to the race detector, which cannot see what a host loads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch

from asyncckpt.storage import MemoryStorage
from asyncckpt.testing import simacc
from asyncckpt.worker import pipeline


def declare(data: Any) -> None:
    """This thread reads `data` now, where that is of an arena: other bytes that are written cannot be changed."""
    view = memoryview(data)
    if view and not view.readonly:
        simacc.host_access(torch.frombuffer(view, dtype=torch.uint8))


class Declaring(MemoryStorage):
    """Declares every byte of an arena that is written."""

    declared = 0

    async def put(self, key: str, parts: Any, **options: Any) -> Any:
        return await super().put(key, self._declared(parts), **options)

    async def _declared(self, parts: Any) -> AsyncIterator[Any]:
        if hasattr(parts, "__aiter__"):
            async for part in parts:
                yield self._read(part)
        else:
            for part in parts:
                yield self._read(part)

    def _read(self, part: Any) -> Any:
        declare(part)
        self.declared += 0 if memoryview(part).readonly else len(memoryview(part))
        return part


def declare_digests(patch: pytest.MonkeyPatch) -> None:
    """Have the bytes declared too that are digested."""
    plain = pipeline.digest

    def digest(data: Any) -> str:
        declare(data)
        return plain(data)

    patch.setattr(pipeline, "digest", digest)
