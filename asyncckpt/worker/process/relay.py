"""Relay: the trainer's side of what a worker process says to other ranks, and hears of them.

On a thread of its own: the key-value store may take a minute to answer, and the bridge must not wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from asyncckpt.worker import failures
from asyncckpt.worker.process.wire import Message
from asyncckpt.worker.ranks import Ranks


class Relay:
    """Carries out one request after the other; methods may be called in any thread."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._tasks: set[str] = set()
        self._requests: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._carry, name="asyncckpt-relay", daemon=True)
        if ranks.world > 1:
            self._thread.start()

    def take(self, message: Message, answer: Callable[[Message], None]) -> None:
        """Carry out what a worker process wants; `answer` is called with a message if it asked."""
        self._requests.put(lambda: self._serve(message, answer))

    def forget(self) -> None:
        """The worker process is no more, and is at work on nothing."""
        self._requests.put(self._end_tasks)

    def close(self, timeout: float | None) -> None:
        """Carry out what was asked for, and end; a store that does not answer is left after `timeout` seconds."""
        self._requests.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _carry(self) -> None:
        while (request := self._requests.get()) is not None:
            request()

    def _end_tasks(self) -> None:
        for task in self._tasks:
            self._ranks.end(task)
        self._tasks.clear()

    def _serve(self, message: Message, answer: Callable[[Message], None]) -> None:
        try:
            said = {"result": _REQUESTS[message["name"]](self, *message["arguments"])}
        except Exception as error:
            said = {"error": failures.encode(error)}
        if "call" in message:
            answer({"kind": "heard", "call": message["call"], **said})

    def _session(self) -> str | None:
        return self._ranks.session

    def _peek(self, key: str) -> dict[str, Any] | None:
        return self._ranks.peek(key)

    def _publish(self, key: str, value: dict[str, Any]) -> None:
        self._ranks.publish(key, value)

    def _tell(self, key: str, value: dict[str, Any]) -> None:
        self._ranks.tell(key, value)

    def _begin(self, task: str) -> None:
        self._tasks.add(task)
        self._ranks.begin(task)

    def _end(self, task: str) -> None:
        self._tasks.discard(task)
        self._ranks.end(task)


_REQUESTS: dict[str, Callable[..., Any]] = {
    "session": Relay._session,
    "peek": Relay._peek,
    "publish": Relay._publish,
    "tell": Relay._tell,
    "begin": Relay._begin,
    "end": Relay._end,
}
