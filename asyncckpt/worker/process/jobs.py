"""Jobs: those that the worker process has, or will have, and what it says of each, taken to whoever waits for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator

from asyncckpt.errors import SaveSkipped, SaveSuperseded, WorkerCrashed
from asyncckpt.events import Event, Failed, Listeners
from asyncckpt.format import record as records
from asyncckpt.worker import failures
from asyncckpt.worker.job import Committed, Declined, Landed, Missed, Rejected, Started
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.ignored import IgnoredMessages, kind_of
from asyncckpt.worker.process.wire import Message, UnknownEvent

if sys.platform == "linux":
    from asyncckpt.worker.process.pending import Pending

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out


_LAST = ("committed", "rejected", "declined")
"""What a worker says of a job that it is done with."""


class Jobs:
    """In the order in which they were submitted. Whoever changes or walks through them holds `lock`."""

    def __init__(self, lock: threading.RLock, listeners: Listeners, ignored: IgnoredMessages) -> None:
        self._lock = lock
        self._ignored = ignored
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

    def _about(self, message: Message) -> Pending | None:
        """The one that a message is about, which may be over."""
        return self._noted(self.find(message["job"]), message)

    def _ended_by(self, message: Message) -> Pending | None:
        """The same, taken out."""
        return self._noted(self.take(message["job"]), message)

    def _noted(self, pending: Pending | None, message: Message) -> Pending | None:
        if pending is None:
            self._ignored.note("late", message)
        return pending

    def take_all(self, which: Callable[[Pending], bool] = lambda pending: True) -> list[Pending]:
        """Take those out that are such."""
        with self._lock:
            return [self._jobs.pop(pending.id) for pending in list(self._jobs.values()) if which(pending)]

    def _told_with(self, message: Message) -> Event | None:
        try:
            return None if message["event"] is None else wire.event_of(message["event"])
        except UnknownEvent:
            self._ignored.note("unknown", {"kind": message["event"]["event"]})
            return None

    # -- what the worker says ------------------------------------------------------------------------------

    def started(self, message: Message) -> None:
        """A job has left the queue."""
        if (pending := self._about(message)) is not None:
            pending.ticket.reply(Started(message["seq"]))

    def taken(self, message: Message) -> None:
        """Some of its bytes are needed no more."""
        if (pending := self._about(message)) is not None:
            pending.ticket.watermark.take(message["upto"])

    def landed(self, message: Message) -> None:
        """It is on the local tier."""
        if (pending := self._about(message)) is not None:
            pending.land()  # first: what the next worker would be given must not be what the next save copies into
            pending.ticket.reply(Landed(records.decode(message["record"].encode("ascii"), "the worker's record")))

    def missed(self, message: Message) -> None:
        """It never will be there."""
        if (pending := self._about(message)) is not None:
            pending.ticket.reply(Missed(failures.decode(message["error"])))

    def committed(self, message: Message) -> None:
        """It is durable."""
        record = records.decode(message["record"].encode("ascii"), "the worker's record")
        event = self._told_with(message)
        if (pending := self._ended_by(message)) is not None:
            # Told before the handle ends: who has waited for it finds the save in the metrics.
            if event is not None:
                self._listeners.emit(event)
            pending.ticket.reply(Committed(record))
            pending.keep()

    def rejected(self, message: Message) -> None:
        """It has failed."""
        error, phase = failures.decode(message["error"]), message["phase"]
        if (pending := self._ended_by(message)) is not None:
            pending.ticket.watermark.leave()
            if not isinstance(error, SaveSkipped | SaveSuperseded):  # given up, which is no failure
                self._listeners.emit(Failed(pending.ticket.job.step, phase, error))
            pending.ticket.reply(Rejected(phase, error))
            pending.keep()

    def declined(self, message: Message) -> None:
        """Rank 0 will not have it."""
        by_step = message["by_step"]
        if (pending := self._ended_by(message)) is not None:
            pending.ticket.watermark.leave()
            pending.ticket.reply(Declined(by_step))
            pending.keep()

    def misread(self, message: Message, error: Exception) -> None:
        """Something was said of a job and not understood: one that the worker is done with must end all the same."""
        if kind_of(message) in _LAST and (pending := self.take(str(message.get("job")))) is not None:
            what = f"the worker process has ended it with a message that was not understood ({error!r})"
            _fail(pending, f"step {pending.ticket.job.step} may be durable or not, the catalog says: {what}")


def fail(jobs: Iterable[Pending], reason: str) -> None:
    """Answer jobs whose worker is no more; they must have been taken out."""
    for pending in jobs:
        step = pending.ticket.job.step
        _fail(pending, f"the background worker ended before step {step} was durable: {reason}")


def _fail(pending: Pending, reason: str) -> None:
    pending.ticket.watermark.leave()
    pending.ticket.reply(Rejected("worker", WorkerCrashed(reason)))
    pending.keep()
