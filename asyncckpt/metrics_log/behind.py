"""Behind: work that is done again a while after something has changed, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Behind:
    """Calls `work` within `seconds` of each `changed`, and again where it says that it could not do all.

    The thread starts with the first change. `work` never raises.
    """

    def __init__(self, name: str, work: Callable[[], bool], seconds: float) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_changed = False
        self._is_urgent = False
        self._is_closed = False
        self._begun = 0
        self._done = 0

    def changed(self) -> None:
        """There is something to do; returns at once."""
        with self._state:
            if self._is_changed or self._is_closed:
                return
            self._is_changed = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._state.notify_all()

    def settle(self, timeout: float | None) -> bool:
        """Have everything done now that has changed so far; whether that came to its end within `timeout` seconds."""
        with self._state:
            awaited = self._begun + 1 if self._is_changed else self._begun
            self._is_urgent = self._is_changed
            self._state.notify_all()
            return self._state.wait_for(lambda: self._done >= awaited, timeout)

    def close(self, timeout: float | None) -> bool:
        """As `settle`, and then the thread ends."""
        is_done = self.settle(timeout)
        with self._state:
            self._is_closed, self._is_changed = True, False
            self._state.notify_all()
            thread = self._thread
        if thread is not None and is_done:
            thread.join(timeout)
        return is_done

    def _run(self) -> None:
        while self._next():
            is_done = self._work()
            with self._state:
                self._done += 1
                self._is_changed |= not is_done
                self._state.notify_all()
                if self._is_closed:
                    return

    def _next(self) -> bool:
        with self._state:
            self._state.wait_for(lambda: self._is_changed or self._is_closed)
            if not self._is_changed:
                return False
            self._state.wait_for(lambda: self._is_urgent, self._seconds)
            self._is_changed = self._is_urgent = False
            self._begun += 1
            return True
