"""Jobs: those that the worker process has, or will have, and what it says of each, taken to whoever waits for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator

from asyncckpt.errors import SaveSkipped, SaveSuperseded, WorkerCrashed
from asyncckpt.events import Failed, Listeners
from asyncckpt.format import record as records
from asyncckpt.worker import failures, wire
from asyncckpt.worker.job import Committed, Declined, Landed, Missed, Rejected, Started
from asyncckpt.worker.wire import Message

if sys.platform == "linux":
    from asyncckpt.worker.pending import Pending

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out


class Jobs:
    """In the order in which they were submitted. Whoever changes or walks through them holds `lock`."""

    def __init__(self, lock: threading.RLock, listeners: Listeners) -> None:
        self._lock = lock
        self._listeners = listeners
        self._jobs: dict[str, Pending] = {}

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._jobs.values())

    def __contains__(self, job: str) -> bool:
        return job in self._jobs

    def add(self, pending: Pending) -> None:
        """Another one."""
        self._jobs[pending.id] = pending

    def find(self, job: str) -> Pending | None:
        """The one with that id, if it is there still."""
        with self._lock:
            return self._jobs.get(job)

    def take(self, job: str) -> Pending | None:
        """Take the one with that id out, if it is there still."""
        with self._lock:
            return self._jobs.pop(job, None)

    def take_all(self, which: Callable[[Pending], bool] = lambda pending: True) -> list[Pending]:
        """Take those out that are such."""
        with self._lock:
            return [self._jobs.pop(pending.id) for pending in list(self._jobs.values()) if which(pending)]

    # -- what the worker says ------------------------------------------------------------------------------

    def started(self, message: Message) -> None:
        """A job has left the queue."""
        if (pending := self.find(message["job"])) is not None:
            pending.ticket.reply(Started(message["seq"]))

    def taken(self, message: Message) -> None:
        """Some of its bytes are needed no more."""
        if (pending := self.find(message["job"])) is not None:
            pending.ticket.watermark.take(message["upto"])

    def landed(self, message: Message) -> None:
        """It is on the local tier."""
        if (pending := self.find(message["job"])) is not None:
            pending.land()  # first: what the next worker would be given must not be what the next save copies into
            pending.ticket.reply(Landed(records.decode(message["record"].encode("ascii"), "the worker's record")))

    def missed(self, message: Message) -> None:
        """It never will be there."""
        if (pending := self.find(message["job"])) is not None:
            pending.ticket.reply(Missed(failures.decode(message["error"])))

    def committed(self, message: Message) -> None:
        """It is durable."""
        if (pending := self.take(message["job"])) is not None:
            # Told before the handle ends: who has waited for it finds the save in the metrics.
            if message["event"] is not None:
                self._listeners.emit(wire.event_of(message["event"]))
            record = records.decode(message["record"].encode("ascii"), "the worker's record")
            pending.ticket.reply(Committed(record))
            pending.keep()

    def rejected(self, message: Message) -> None:
        """It has failed."""
        if (pending := self.take(message["job"])) is not None:
            error = failures.decode(message["error"])
            pending.ticket.watermark.leave()
            if not isinstance(error, SaveSkipped | SaveSuperseded):  # given up, which is no failure
                self._listeners.emit(Failed(pending.ticket.job.step, message["phase"], error))
            pending.ticket.reply(Rejected(message["phase"], error))
            pending.keep()

    def declined(self, message: Message) -> None:
        """Rank 0 will not have it."""
        if (pending := self.take(message["job"])) is not None:
            pending.ticket.watermark.leave()
            pending.ticket.reply(Declined(message["by_step"]))
            pending.keep()


def fail(jobs: Iterable[Pending], reason: str) -> None:
    """Answer jobs whose worker is no more; they must have been taken out."""
    for pending in jobs:
        job = pending.ticket.job
        crash = WorkerCrashed(f"the background worker ended before step {job.step} was durable: {reason}")
        pending.ticket.watermark.leave()
        pending.ticket.reply(Rejected("worker", crash))
        pending.keep()
