"""Speed: how long a save takes, from what recent ones have measured."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from asyncckpt.events import Durable, Event

RECENT = 4
"""So many saves are looked at: what came before was on another day of the store."""


@dataclass(frozen=True, slots=True)
class Speed:
    """`rate` in bytes of state per second, and `overhead` in seconds that a save takes whatever its size."""

    rate: float
    overhead: float = 0.0

    def seconds(self, nbytes: int) -> float:
        """How long a save of a state of `nbytes` takes."""
        return self.overhead + nbytes / self.rate


class Speedometer:
    """A listener. Of the recent saves the slowest counts: a deadline forgives no optimism.

    What is measured is the state that becomes durable per second, not the bytes that are written for it: a save that
    shares most of its tensors with the one before is as quick as that. What it rested, to spare the training, is left
    out: an emergency rests no more.
    """

    def __init__(self) -> None:
        self._recent: deque[Speed] = deque(maxlen=RECENT)
        self.saved: int | None = None
        """The step of the newest complete checkpoint that became durable."""

    def on_event(self, event: Event) -> None:
        """Take note of a save that became durable."""
        if not isinstance(event, Durable):
            return
        if not event.partial:
            self.saved = event.step
        spent = event.phases
        writing = spent.get("write", 0.0) + spent.get("stage", 0.0) - event.rested
        if event.bytes and writing > 0:
            self._recent.append(Speed(event.bytes / writing, spent.get("report", 0.0) + spent.get("commit", 0.0)))

    @property
    def speed(self) -> Speed | None:
        """As far as it is known."""
        recent = tuple(self._recent)
        if not recent:
            return None
        return Speed(min(speed.rate for speed in recent), max(speed.overhead for speed in recent))
