"""Waiting: how long somebody waits who may be told meanwhile that the process will be killed.

A signal handler takes no lock, so a notice wakes nobody: who waits looks for one ten times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

_T = TypeVar("_T")

PERIOD = 0.1
"""Seconds between two looks."""

Ends: TypeAlias = Callable[[], float | None]
"""When, by the monotonic clock, a notice has everybody let go; None without one."""


class Waiting:
    """Of one call, from now on: for `timeout` seconds (None is for ever), until `deadline`, and until what `ends` says.

    A notice whose time was over before does not count: who is alive after it was not killed.
    """

    def __init__(self, timeout: float | None, ends: Ends | None = None, deadline: float | None = None) -> None:
        self._began = time.monotonic()
        self._until = None if timeout is None else self._began + timeout
        self._ends = ends
        self._deadline = deadline

    @property
    def spent(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float | None:
        """Seconds that are left, as far as is known now."""
        ends = [end for end in (self._until, self._last) if end is not None]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    @property
    def is_cut_short(self) -> bool:
        """Whether it is over because the process will be killed."""
        last = self._last
        return last is not None and time.monotonic() >= last

    @property
    def _last(self) -> float | None:
        noticed = None if self._ends is None else self._ends()
        if noticed is not None and noticed <= self._began:
            noticed = None
        return min((end for end in (noticed, self._deadline) if end is not None), default=None)

    def wait(self, look: Callable[[float | None], bool]) -> bool:
        """Whether `look` comes to say so in time; it waits for as many seconds as it is given, at most."""
        return self.found(lambda seconds: look(seconds) or None) is not None

    def found(self, look: Callable[[float | None], _T | None]) -> _T | None:
        """What `look` comes to find in time, or None; it looks for as many seconds as it is given, at most."""
        while True:
            left = self.left
            seconds = left if self._ends is None else min(PERIOD, PERIOD if left is None else left)
            if (it := look(seconds)) is not None:
                return it
            if seconds == left:
                return None
