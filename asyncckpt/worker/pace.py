"""Pace: which share of its time background work takes, so that training has the rest."""

from __future__ import annotations

import threading
import time

PIECE = 0.002
"""Seconds of work that are worth a rest: to fall asleep and wake up costs some 50 microseconds."""


class Pace:
    """Any thread may set it, and any may rest; without anything said, work never rests."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._share = 1.0
        self._lapses: float | None = None
        self._worked = 0.0

    @property
    def share(self) -> float:
        """Of its time, from 0 (none for now) to 1 (all of it)."""
        return 1.0 if self._lapses is not None and time.monotonic() >= self._lapses else self._share

    def set(self, share: float, seconds: float | None = None) -> None:
        """From now on, or for so many seconds and no longer; who rests is told at once.

        Work that is held needs an end: it must not wait for a training that has turned to something else.
        """
        with self._changed:
            self._share = share
            self._lapses = None if seconds is None else time.monotonic() + seconds
            self._changed.notify_all()

    def rest(self, worked: float) -> None:
        """After `worked` seconds of work: return once so much rest has followed that the share is kept."""
        if self._share == 1:  # at once: 20,000 tensors ask
            return
        began = time.monotonic()
        with self._changed:
            self._worked += worked
            if self._worked < PIECE:
                return
            worked, self._worked = self._worked, 0.0
            while (left := self._end(began, worked) - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))

    def _end(self, began: float, worked: float) -> float:
        """When a rest is over that began then, as things are now."""
        end = began + worked * (1 / self._share - 1) if self._share else float("inf")
        return end if self._lapses is None else min(end, self._lapses)
