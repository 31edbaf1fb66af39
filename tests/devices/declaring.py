"""Declaring: the worker's reads of an arena, told to the race detector, which cannot see what a host loads.

Those of a worker process are told as far as the trainer knows of them: it may read what the watermark has reached from
then on, on the thread that says so, and may do so until it has said that it is done, on the thread that hears it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from asyncckpt.storage import MemoryStorage
from asyncckpt.testing import simacc
from asyncckpt.worker import pipeline
from asyncckpt.worker.job import Missed, Started
from asyncckpt.worker.process.bridge import ProcessExecutor
from asyncckpt.worker.ticket import Reply, Ticket


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


def declare_what_another_process_reads(patch: pytest.MonkeyPatch) -> None:
    """Have the bytes declared that a worker process may read."""
    submit = ProcessExecutor.submit

    def submitted(executor: ProcessExecutor, ticket: Ticket) -> None:
        def reply(answer: Reply) -> None:
            if not isinstance(answer, Started | Missed):
                declare(ticket.view[: ticket.job.layout.size])
            ticket.reply(answer)

        def follow(told: Callable[[], None]) -> None:
            def also_declared() -> None:
                declare(ticket.view[: ticket.watermark.reached])
                told()

            ticket.watermark._follow = also_declared

        patch.setattr(ticket.watermark, "follow", follow)
        submit(executor, replace(ticket, reply=reply))

    patch.setattr(ProcessExecutor, "submit", submitted)
