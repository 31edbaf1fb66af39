"""Entrusted: what a trainer has given its worker process to carry out: jobs, and the memory that they lie in.

All of it is for the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from asyncckpt.errors import SaveFailed
from asyncckpt.events import Durable
from asyncckpt.worker import failures
from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.job import Committed, Landed, Layout, Missed, Rejected, Started
from asyncckpt.worker.memory import Mapping, shared
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.calls import text
from asyncckpt.worker.process.roles import Outliving
from asyncckpt.worker.process.wire import Message
from asyncckpt.worker.ticket import Reply, Ticket
from asyncckpt.worker.watermark import Watermark

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")

_POPULATE_READ = 22


@dataclass(slots=True)
class Held:
    """A job that was not answered yet."""

    size: int
    watermark: Watermark
    token: Descriptor

    def claim(self) -> bool:
        """Whether the trainer has not taken the job back: who reads the token first has it."""
        try:
            os.eventfd_read(self.token.fileno())
        except BlockingIOError:
            return False
        return True


class Entrusted:
    """Jobs on their way through `service`; how each ends is said by `post`, at once or `soon` from another thread."""

    def __init__(self, service: Outliving, post: Callable[[Message], None], soon: Callable[[Message], None]) -> None:
        self._service = service
        self._post = post
        self._soon = soon
        self._arenas: dict[str, memoryview] = {}
        self._layouts: dict[int, Layout] = {}
        self._is_alone = False
        self.jobs: dict[str, Held] = {}
        self.durable: Durable | None = None
        """The event of the save that is answered next."""
        self.late = 0
        """Messages of saves that are over, since somebody was told how many."""
        self.lost = 0
        """Complete snapshots that could not be committed once the trainer was dead: nobody else knows of them."""

    def left_alone(self) -> tuple[int, int]:
        """The trainer is dead: drop what is incomplete. How many snapshots are complete, and how many are not."""
        self._is_alone = True
        sealed = [held for held in self.jobs.values() if held.watermark.is_sealed]
        for held in self.jobs.values():
            held.watermark.abort(SaveFailed("the trainer ended before its snapshot was complete"))
        return len(sealed), len(self.jobs) - len(sealed)

    # -- what the trainer sends ----------------------------------------------------------------------------

    def arena(self, message: Message, descriptors: list[Descriptor]) -> None:
        """Memory that jobs lie in."""
        memory = shared(descriptors[0], message["bytes"], is_writable=False)
        self._arenas[message["arena"]] = memory.view
        if not message["windowed"]:  # to map it in would be to have it all in memory
            asyncio.get_running_loop().run_in_executor(None, _map_in, memory)

    def layout(self, message: Message, descriptors: list[Descriptor]) -> None:
        """How they lie there."""
        self._layouts[message["layout"]] = wire.layout_of(message["as"])

    def drop(self, message: Message, descriptors: list[Descriptor]) -> None:
        """One of both is needed no more."""
        self._arenas.pop(message.get("arena", ""), None)
        self._layouts.pop(message.get("layout", 0), None)

    def job(self, message: Message, descriptors: list[Descriptor]) -> None:
        """One to be carried out."""
        job = wire.job_of(message["job"], self._layouts[message["layout"]])
        held = Held(job.layout.size, Watermark(), descriptors[0])
        self.jobs[job.id] = held
        if message["windowed"]:
            # The trainer gives it back, since the memory is its own; said by whichever thread has read it.
            held.watermark.through_window(lambda _, upto: self._soon({"kind": "taken", "job": job.id, "upto": upto}))
        self._service.submit(
            Ticket(
                job,
                memoryview(b"") if message["landed"] else self._arenas[job.arena],
                held.watermark,
                lambda answer: self._reply(job.id, answer),
                claim=held.claim,
                repeated=message["repeated"],
                landed=message["landed"],
            )
        )

    def ready(self, message: Message, descriptors: list[Descriptor]) -> None:
        """So much of a job's snapshot is there."""
        if (held := self._about(message)) is not None:
            held.watermark.advance(message["upto"])

    def seal(self, message: Message, descriptors: list[Descriptor]) -> None:
        """All of it is there, and it may be committed."""
        if (held := self._about(message)) is not None:
            held.watermark.advance(held.size)
            held.watermark.seal()

    def abort(self, message: Message, descriptors: list[Descriptor]) -> None:
        """It never will be."""
        if (held := self._about(message)) is not None:
            held.watermark.abort(failures.decode(message["error"]))

    def withdrawn(self, message: Message, descriptors: list[Descriptor]) -> None:
        """A job was taken back."""
        self._service.withdraw(message["job"])
        self.jobs.pop(message["job"], None)

    def abandoned(self, message: Message, descriptors: list[Descriptor]) -> None:
        """A job is given up although it may have been begun."""
        self._service.abandon(message["job"], message["by_step"])

    def refuse(self, message: Message, error: Exception) -> None:
        """The job that `message` was about cannot be carried out: its handle must end."""
        about = message.get("job")
        reason = SaveFailed(f"the worker process did not understand what it was told of this save: {error!r}")
        if message.get("kind") == "job" and isinstance(about, dict) and isinstance(about.get("id"), str):
            rejected = {"job": about["id"], "phase": "worker", "error": failures.encode(reason)}
            self.jobs.pop(about["id"], None)
            self._post({"kind": "rejected", **rejected})
        elif (held := self.jobs.get(str(about))) is not None:
            held.watermark.abort(reason)

    def _about(self, message: Message) -> Held | None:
        """The job that a message is about; None where that is over."""
        held = self.jobs.get(message["job"])
        self.late += held is None
        return held

    # -- what it is told -----------------------------------------------------------------------------------

    def _reply(self, job: str, answer: Reply) -> None:
        if isinstance(answer, Started):
            self._post({"kind": "started", "job": job, "seq": answer.seq})
            return
        if isinstance(answer, Landed):
            self._post({"kind": "landed", "job": job, "record": text(answer.record)})
            return
        if isinstance(answer, Missed):
            self._post({"kind": "missed", "job": job, "error": failures.encode(answer.error)})
            return
        held = self.jobs.pop(job, None)
        if isinstance(answer, Committed):
            # With its event, in one message: a death between the two would tell of it twice, or never.
            event = None if self.durable is None else wire.event_json(self.durable)
            self.durable = None
            self._post({"kind": "committed", "job": job, "record": text(answer.record), "event": event})
        elif isinstance(answer, Rejected):
            logger.info("a save failed (%s): %s", answer.phase, answer.error)
            self.lost += self._is_alone and held is not None and held.watermark.is_sealed
            error = failures.encode(answer.error)
            self._post({"kind": "rejected", "job": job, "phase": answer.phase, "error": error})
        else:
            self._post({"kind": "declined", "job": job, "by_step": answer.by_step})


def _map_in(memory: Mapping) -> None:
    with suppress(OSError):  # an older kernel: then page by page, when they are read
        memory.advise(_POPULATE_READ, 0, len(memory.view))
