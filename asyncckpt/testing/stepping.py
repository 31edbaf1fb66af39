"""Stepping: two writers interleaved at every file system call, without a sleep.

::

    for step in range(count_calls(lambda files: act(fresh_root(), files))):
        root = fresh_root()
        interleave(lambda files: act(root, files), lambda: act_too(root), stop_before=step)
        check(root)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from asyncckpt.storage.files import Files
from asyncckpt.testing.files import Call, WatchedFiles

_T = TypeVar("_T")
_U = TypeVar("_U")

_PATIENCE = 60.0  # seconds; only a test that is itself wrong waits this long


class SteppingFiles(WatchedFiles):
    """Stops before call number `stop_before`, counted from 0, until `resume`; `calls` names those begun."""

    def __init__(self, stop_before: int | None = None) -> None:
        super().__init__()
        self.calls: list[str] = []
        self._stop_before = stop_before
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._resumed = threading.Event()

    def around(self, call: Call) -> Any:
        with self._lock:
            number = len(self.calls)
            self.calls.append(" ".join((call.name, *call.paths)))
        if number == self._stop_before:
            self._stopped.set()
            if not self._resumed.wait(_PATIENCE):
                raise TimeoutError("nobody resumed this file system")
        return call.make()

    def wait_stopped(self) -> None:
        """Wait until the call is about to be made, or `resume` was called."""
        if not self._stopped.wait(_PATIENCE):
            raise TimeoutError(f"this file system never got to call {self._stop_before}")

    def resume(self) -> None:
        """Let the stopped call go on, also one that has not come yet."""
        self._resumed.set()
        self._stopped.set()


def count_calls(action: Callable[[Files], object]) -> int:
    """How many calls `action` makes on the files it is given: the range of `interleave`'s `stop_before`."""
    files = SteppingFiles()
    action(files)
    return len(files.calls)


def interleave(first: Callable[[Files], _T], second: Callable[[], _U], *, stop_before: int) -> tuple[_T, _U]:
    """Run `first` up to its call `stop_before`, then all of `second`, then the rest of `first`.

    `first` runs in a thread of its own. Where it makes fewer calls, `second` runs after it. Returns what both
    returned; an exception of either is raised, that of `second` before that of `first`.
    """
    files = SteppingFiles(stop_before)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(first, files)
        running.add_done_callback(lambda _: files.resume())
        try:
            files.wait_stopped()
            result = second()
        finally:
            files.resume()
        return running.result(), result
