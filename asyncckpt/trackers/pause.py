"""Pause: when something that has failed may be tried again."""

from __future__ import annotations

from asyncckpt.clock import SYSTEM_CLOCK

FIRST = 1.0
"""Seconds after the first failure; it doubles with each."""

LONGEST = 300.0


class Pause:
    """A second after the first failure in a row, then twice as long each time, five minutes at most."""

    def __init__(self) -> None:
        self._length = 0.0
        self._until = 0.0

    def begin(self) -> bool:
        """It has failed, now; whether it had worked before."""
        is_first = not self._length
        self._length = min(max(FIRST, 2 * self._length), LONGEST)
        self._until = SYSTEM_CLOCK.monotonic() + self._length
        return is_first

    def end(self) -> None:
        """It has worked."""
        self._length = self._until = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it may be tried."""
        return SYSTEM_CLOCK.monotonic() >= self._until
