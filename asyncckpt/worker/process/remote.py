"""Remote ranks: the other ranks as a worker process hears them, through its trainer and for as long as that lives.

The key-value store by which ranks agree needs torch, and may live in a trainer: so the trainer carries out every word,
see `relay`. Once it is dead nothing is said or heard any more. What a save needs from then on is in the storage, and in
what was heard before: the session's name, and which ranks have workers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from asyncckpt.worker.others import Others
from asyncckpt.worker.process.questions import Questions
from asyncckpt.worker.process.wire import Message
from asyncckpt.worker.ranks import Ranks


def ranks_json(ranks: Ranks) -> Message | None:
    """What a worker process has to know of `ranks`; None where there is one."""
    if ranks.world == 1:
        return None
    return {
        "rank": ranks.rank,
        "world": ranks.world,
        "deadline": ranks.deadline,
        "arguments": dict(ranks.arguments),
    }


class RemoteRanks:
    """What `ranks_json` has said; `post` sends a message to the trainer, from any thread."""

    def __init__(self, said: Message, post: Callable[[Message], None]) -> None:
        self.rank: int = said["rank"]
        self.world: int = said["world"]
        self.deadline: float = said["deadline"]
        self.arguments: dict[str, str] = said["arguments"]
        self.is_alone = False
        self._post = post
        self._session: str | None = None
        self._questions = Questions()
        self._lock = threading.Lock()
        self._others = Others(self.rank, self.arguments, self.peek)
        self.check_alike, self.presence = self._others.check_alike, self._others.presence

    @property
    def session(self) -> str | None:
        """See `Ranks.session`."""
        if self._session is None:
            self._session = self._ask("session")
        return self._session

    def has_met(self) -> bool:
        """Whether everything was heard that has to be known once the trainer is dead; blocks as `peek` does."""
        try:
            needed = range(1, self.world) if self.rank == 0 else (0,)
            return self.session is not None and all(self._others.has_told(rank) for rank in needed)
        except ConnectionError:
            return False

    def has_no_worker(self, rank: int) -> bool:
        """Whether `rank` has said that its saves end with it; once `has_met` has been true, without asking."""
        return self._others.has_told(rank) and self.presence(rank) is None

    def publish(self, key: str, value: dict[str, Any]) -> None:
        """See `Ranks.publish`; where the trainer dies, those who outlive theirs find in the storage what they need."""
        try:
            self._ask("publish", key, value)
        except ConnectionError:
            if not self.is_alone:
                raise

    def tell(self, key: str, value: dict[str, Any]) -> None:
        """See `Ranks.tell`."""
        self._say("tell", key, value)

    def peek(self, key: str) -> dict[str, Any] | None:
        """See `Ranks.peek`; blocks until the trainer has answered, or is dead."""
        said: dict[str, Any] | None = self._ask("peek", key)
        return said

    def begin(self, task: str) -> None:
        """See `Ranks.begin`: the trainer says so for as long as this process lives."""
        self._say("begin", task)

    def end(self, task: str) -> None:
        """See `Ranks.end`."""
        self._say("end", task)

    def part(self, timeout: float) -> None:
        """The trainer's to do."""

    def hear(self, message: Message) -> None:
        """Take an answer of the trainer."""
        with self._lock:
            question = self._questions.take(message["call"])
        if question is not None:
            question.hear(message)

    def lose(self) -> None:
        """The trainer is dead: nobody will answer."""
        with self._lock:
            self.is_alone = True
            unanswered = self._questions.take_sent(everything=True)
        for question in unanswered:
            question.answer.set_exception(_lost())

    def _say(self, name: str, *arguments: object) -> None:
        if not self.is_alone:
            self._post({"kind": "ranks", "name": name, "arguments": arguments})

    def _ask(self, name: str, *arguments: object) -> Any:
        with self._lock:
            if self.is_alone:
                raise _lost()
            question = self._questions.ask(name, {"arguments": arguments})
        with suppress(RuntimeError):  # the loop is closed: this process ends
            self._post({**question.send(), "kind": "ranks"})
        return question.answer.result()


def _lost() -> ConnectionError:
    return ConnectionError("the trainer is dead, through which this worker process heard the other ranks")
