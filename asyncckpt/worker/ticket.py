"""Ticket: a job in a queue, with what carrying it out takes and whom to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.job import Committed, Declined, Landed, Missed, Rejected, SaveJob, Started
from asyncckpt.worker.watermark import Watermark

Reply: TypeAlias = Started | Landed | Missed | Committed | Rejected | Declined


def _granted() -> bool:
    """Nobody takes a job back but by `SaveService.withdraw`."""
    return True


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job in the queue, with the arena it reads and whom to answer."""

    job: SaveJob
    view: memoryview
    watermark: Watermark
    reply: Callable[[Reply], None]
    memory: Descriptor | None = None
    """Of the memfd that `view` is a mapping of, where there is one."""
    claim: Callable[[], bool] = _granted
    """Asked once, right before the job is begun: whether it may be."""
    repeated: bool = False
    """Whether another worker had the job, and may have committed it."""
    landed: bool = False
    """Whether the local tier is known to have it: then there is nothing in `view` any more."""

    def without_memory(self) -> Ticket:
        """The same once the local tier has it: the arena is free for the next save."""
        return replace(self, view=memoryview(b""), memory=None, landed=True)
