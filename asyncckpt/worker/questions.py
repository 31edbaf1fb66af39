"""Questions: what the worker process was asked, or will be, and has not answered yet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from asyncckpt.errors import WorkerCrashed
from asyncckpt.worker import failures
from asyncckpt.worker.wire import Message


class Question:
    """One of them; `answer` waits for it."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self.answer: Future[Any] = Future()
        self.is_sent = False

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
        number = next(self._numbers)
        question = self._open[number] = Question({"kind": "call", "call": number, "name": name, **arguments})
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
