"""Tasks: a thread that does what it is given, in order, and outlives whatever goes wrong in it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger("asyncckpt")


class Tasks:
    """One thread, from `start` to `close`; what was put before it started waits for it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, task: Callable[[], None]) -> None:
        self._queue.put(task)

    def start(self) -> None:
        """Start the thread, unless it runs."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """Finish what is queued, then end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                task()
            except BaseException:  # the thread's entry: a listener that exits must not end the next task too
                logger.exception("a task of the thread %s failed", self._name)
            del task
