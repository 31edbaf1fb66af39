"""Vigil: for how long a worker process has given no sign of life, as far as somebody here was awake to hear one."""

from __future__ import annotations

from collections.abc import Callable


class Vigil:
    """Kept by a thread that looks every `beat` seconds, in which the worker says something, or more often.

    A machine that was suspended, or a group of processes that was frozen, was silent on both sides: what passes between
    two looks counts as two beats at most, so that a worker has had the time to say something.
    """

    def __init__(self, beat: float, clock: Callable[[], float]) -> None:
        self._most = 2 * beat
        self._clock = clock
        self._looked = clock()
        self.silence = 0.0
        """Seconds."""

    def heard(self) -> None:
        """There was a sign."""
        self._looked, self.silence = self._clock(), 0.0

    def look(self) -> None:
        """There was none since the last look."""
        now = self._clock()
        self.silence += min(now - self._looked, self._most)
        self._looked = now
