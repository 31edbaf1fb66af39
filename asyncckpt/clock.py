"""Clock: where time comes from, so that tests can own it."""

from __future__ import annotations

from time import monotonic
from time import time as wall
from typing import Protocol


class Clock(Protocol):
    """Wall time for people and monotonic time for deadlines, both in seconds."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clocks, with nothing around them: every step looks at them several times."""

    time = staticmethod(wall)
    monotonic = staticmethod(monotonic)


SYSTEM_CLOCK = SystemClock()
