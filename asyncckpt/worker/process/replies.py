"""Replies: what worker processes say, taken to whoever it concerns; what is not understood is counted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from asyncckpt.clock import Clock
from asyncckpt.events import Listeners, WorkerRuns
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.cores import shown
from asyncckpt.worker.process.ignored import IgnoredMessages, kind_of
from asyncckpt.worker.process.relay import Relay
from asyncckpt.worker.process.wire import Message, UnknownEvent

if sys.platform == "linux":
    from asyncckpt.worker.process.exchange import Exchange
    from asyncckpt.worker.process.priority import cores_of_trainer

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")


class Replies:
    """Of one trainer's worker processes, one after the other; for the thread that attends to them."""

    def __init__(
        self, exchange: Exchange, relay: Relay, ignored: IgnoredMessages, listeners: Listeners, clock: Clock
    ) -> None:
        self._exchange = exchange
        self._jobs = exchange.jobs
        self._relay = relay
        self._ignored = ignored
        self._listeners = listeners
        self._clock = clock
        self.heard: float | None = None
        """When there was a sign of life, Unix time."""
        self.has_ended = False
        """Whether the worker has said that it ends, in order; for whoever begins with another one to set back."""

    def take(self, message: Message) -> None:
        """Take one of them where it belongs."""
        handler = _HANDLERS.get(kind_of(message))
        if handler is None:
            self._ignored.note("unknown", message)
            return
        try:
            handler(self, message)
        except Exception as error:
            logger.debug("not understood: %r", message, exc_info=True)
            self._ignored.note("malformed", message, error)
            self._jobs.misread(message, error)

    def _beat(self, message: Message) -> None:
        self.heard = self._clock.time()
        for _ in range(message.get("late", 0)):
            self._ignored.note("late", message)

    def _here(self, message: Message) -> None:
        """It runs; where and how, as it has found."""
        link, cpus, nice = self._exchange.link, frozenset(message["cpus"]), message["nice"]
        spared, seconds = cores_of_trainer() - cpus, 0.0 if link is None else link.age
        logger.info(
            "worker process %s runs after %.2f s, at nice %s, on cores %s%s",
            *(message["pid"], seconds, nice, shown(cpus)),
            f" ({shown(spared)} are left to training)" if spared else "",
        )
        self._listeners.emit(WorkerRuns(message["pid"], seconds, nice, tuple(sorted(cpus)), tuple(sorted(spared))))

    def _hello(self, message: Message) -> None:
        logger.debug("worker process %s is ready", message["pid"])
        self._exchange.ready()

    def _bye(self, message: Message) -> None:
        self.has_ended = True

    def _claimed(self, message: Message) -> None:
        self._exchange.claimed(message)

    def _event(self, message: Message) -> None:
        try:
            event = wire.event_of(message["event"])
        except UnknownEvent:
            self._ignored.note("unknown", {"kind": message["event"]["event"]})
        else:
            self._listeners.emit(event)

    def _relayed(self, message: Message) -> None:
        """Answer the worker that asked; another one would not know what for."""
        exchange, link = self._exchange, self._exchange.link
        self._relay.take(message, lambda answer: None if link is None else exchange.tell(answer, only=link))

    def _answered(self, message: Message) -> None:
        question = self._exchange.answered(message["call"])
        if question is None:
            self._ignored.note("late", message)
        else:
            question.hear(message)


_HANDLERS: dict[str, Callable[[Replies, Message], None]] = {
    "beat": Replies._beat,
    "here": Replies._here,
    "hello": Replies._hello,
    "bye": Replies._bye,
    "claim": Replies._claimed,
    "event": Replies._event,
    "answer": Replies._answered,
    "ranks": Replies._relayed,
    "started": lambda replies, message: replies._jobs.started(message),
    "landed": lambda replies, message: replies._jobs.landed(message),
    "missed": lambda replies, message: replies._jobs.missed(message),
    "taken": lambda replies, message: replies._jobs.taken(message),
    "committed": lambda replies, message: replies._jobs.committed(message),
    "rejected": lambda replies, message: replies._jobs.rejected(message),
    "declined": lambda replies, message: replies._jobs.declined(message),
}
