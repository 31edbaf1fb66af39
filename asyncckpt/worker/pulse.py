"""Pulse: how a rank that waits for another one tells long work from a process that is no more.

While a rank is at work on something that others wait for, it says so again and again. They wait for as long as that
goes on, however many hours a slow store takes, and give up when it stops.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Collection

BEAT = 10.0
"""Seconds between two signs. Many fit into a deadline: one that is late, the interpreter being held, is no death."""


class Pulse:
    """Calls ``beat(count, tasks)`` again and again, on a thread of its own, while there are tasks."""

    def __init__(self, beat: Callable[[int, Collection[str]], None]) -> None:
        self._beat = beat
        self._changed = threading.Condition()
        self._tasks: set[str] = set()
        self._is_started = False
        self._is_stopped = False

    def begin(self, task: str) -> None:
        """Beat for `task` from now on."""
        with self._changed:
            self._tasks.add(task)
            if not self._is_started and not self._is_stopped:
                with contextlib.suppress(RuntimeError):  # no thread to be had: then others wait a deadline, not longer
                    threading.Thread(target=self._run, name="asyncckpt-pulse", daemon=True).start()
                    self._is_started = True
            self._changed.notify_all()

    def end(self, task: str) -> None:
        """Beat for `task` no more."""
        with self._changed:
            self._tasks.discard(task)

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _run(self) -> None:
        for count in itertools.count():
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped, BEAT)  # work that is done sooner needs no sign
                self._changed.wait_for(lambda: self._is_stopped or self._tasks)
                if self._is_stopped:
                    return
                tasks = sorted(self._tasks)
            self._beat(count, tasks)
