"""Speed: how long a save takes, from what recent ones have measured, as long as none has failed since."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from asyncckpt.events import LOCAL, Durable, Event, Failed, TierDurable, TierFailed

RECENT = 4
"""So many saves are looked at: what came before was on another day of the store."""

_NOT_THE_STORES = ("stage", "worker")
"""Phases in which a save fails for what is wrong here."""


@dataclass(frozen=True, slots=True)
class Speed:
    """`rate` in bytes of state per second, and `overhead` in seconds that a save takes whatever its size; the worst of
    so many `saves`.
    """

    rate: float
    overhead: float = 0.0
    saves: int = field(default=1, compare=False)

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
        self._nearer: deque[Speed] = deque(maxlen=RECENT)
        self.failed: str | None = None
        """Why the root did not take the newest save, None where it did: what was measured before says nothing then."""
        self.saved: int | None = None
        """The step of the newest complete checkpoint that became durable."""

    def on_event(self, event: Event) -> None:
        """Take note of a save that became durable or failed, and of what the local tier got of it."""
        if isinstance(event, TierDurable | TierFailed) and event.tier == LOCAL:
            self._take_nearer(event)
        if isinstance(event, Failed) and event.phase not in _NOT_THE_STORES:
            self.failed = f"the save of step {event.step} failed ({event.phase}: {event.error})"
        if not isinstance(event, Durable):
            return
        self.failed = None
        if not event.partial:
            self.saved = event.step
        spent = event.phases
        writing = spent.get("write", 0.0) + spent.get("stage", 0.0) - event.rested
        if event.bytes and writing > 0:
            self._recent.append(Speed(event.bytes / writing, spent.get("report", 0.0) + spent.get("commit", 0.0)))

    def _take_nearer(self, event: TierDurable | TierFailed) -> None:
        if isinstance(event, TierFailed):
            self._nearer.clear()  # nothing is decided for a disk that may be full, or gone
        elif event.bytes and event.spent > 0:
            self._nearer.append(Speed(event.bytes / event.spent))

    @property
    def speed(self) -> Speed | None:
        """As far as it is known."""
        return _slowest(self._recent)

    @property
    def local(self) -> Speed | None:
        """That of the local tier, as far as it is known; None where its last save failed too."""
        return _slowest(self._nearer)


def _slowest(measured: Iterable[Speed]) -> Speed | None:
    recent = tuple(measured)
    if not recent:
        return None
    return Speed(min(speed.rate for speed in recent), max(speed.overhead for speed in recent), len(recent))
