"""Questions: what the worker process was asked, or will be, and has not answered yet."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from asyncckpt.errors import WorkerCrashed
from asyncckpt.worker import failures
from asyncckpt.worker.process.wire import Message

NOTICE = 60.0
"""Seconds after which whoever waits for an answer hears why; then after twice as many, and so on."""


class Question:
    """One of them, `number` among all; `answer` waits for what was asked under `name`."""

    def __init__(self, number: int, name: str, arguments: Mapping[str, Any]) -> None:
        self.number = number
        self.name = name
        self._message: Message = {"kind": "call", "call": number, "name": name, **arguments}
        self.answer: Future[Any] = Future()
        self.is_sent = False
        self.waited = 0.0
        """Seconds for which nobody has answered it, as far as somebody here was awake."""
        self._looked = time.monotonic()
        self._next = NOTICE

    def look(self, most: float) -> None:
        """It is not answered yet. What passed since the last look counts as `most` seconds at most."""
        now = time.monotonic()
        self.waited += min(now - self._looked, most)
        self._looked = now

    def is_to_be_told(self) -> bool:
        """Whether it is time to say for how long it is waited for by now."""
        if self.waited < self._next:
            return False
        self._next = 2 * self.waited
        return True

    def send(self) -> Message:
        """What to send; from now on a worker has it."""
        self.is_sent = True
        return self._message

    def hear(self, message: Message) -> None:
        """Take the answer; what is none, is the asker's to see."""
        try:
            if "error" in message:
                self.answer.set_exception(failures.decode(message["error"]))
            else:
                self.answer.set_result(message["result"])
        except (KeyError, TypeError, AttributeError) as error:
            self.answer.set_exception(WorkerCrashed(f"the answer was not understood: {error!r}"))


class Questions:
    """All of them, by number; not for several threads at once."""

    def __init__(self) -> None:
        self._open: dict[int, Question] = {}
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Question]:
        return iter(self._open.values())

    def ask(self, name: str, arguments: Mapping[str, Any]) -> Question:
        """A new one."""
        question = Question(next(self._numbers), name, arguments)
        self._open[question.number] = question
        return question

    def take(self, number: int) -> Question | None:
        """The one that is answered now; None if nobody waits for it any more."""
        return self._open.pop(number, None)

    def take_sent(self, *, everything: bool) -> list[Question]:
        """Those that a worker has had, or `everything`: nobody will answer them."""
        gone = {number: q for number, q in self._open.items() if q.is_sent or everything}
        for number in gone:
            del self._open[number]
        return list(gone.values())
