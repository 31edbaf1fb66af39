"""Phases: where the worker is with one save, and how long it was in each place before."""

from __future__ import annotations

from collections.abc import Mapping

from asyncckpt.clock import Clock


class Phases:
    """Begins in ``open``; ``write``, ``stage``, ``report`` and ``commit`` follow.

    With a local tier ``write`` is what that took and what the copy from there to the root took, and ``queue`` the time
    between them.
    """

    def __init__(self, clock: Clock) -> None:
        self.now = "open"
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._since = clock.monotonic()

    def enter(self, phase: str) -> None:
        """The phase up to here is over."""
        self._close()
        self.now = phase

    def end(self) -> Mapping[str, float]:
        """The last phase is over; the seconds of all."""
        self._close()
        return self._seconds

    def _close(self) -> None:
        now = self._clock.monotonic()
        self._seconds[self.now] = self._seconds.get(self.now, 0.0) + now - self._since
        self._since = now
