"""Cadence: how many seconds usually lie between two periodic saves, so that a save that is missing can be told.

Steps are timed from one call of ``step`` to the next. Their median counts: a pause now and then (an evaluation, a save
that is waited for) is no part of how long a step takes.
"""

from __future__ import annotations

import statistics
from collections import deque

from asyncckpt.clock import Clock
from asyncckpt.events import Expected, Listeners
from asyncckpt.policy import SavePolicy

ENOUGH = 8
"""Steps from which their median means something."""

RECENT = 64
"""Steps that it is of, at most."""

SELDOM = 16
"""Steps after which their median is taken anew: it takes longer than all else that is done at a step, and half of
`RECENT` have to change before it does."""

CHANGE = 0.1
"""Of what was said last: less than that is not worth an event."""


class Cadence:
    """Of one training, on its thread; tells `listeners` how long an interval of `policy` takes, and when that changes.

    It says nothing where the policy has no period in steps or seconds, and nothing before `ENOUGH` steps where it has
    one in steps alone.
    """

    def __init__(self, policy: SavePolicy, clock: Clock, listeners: Listeners) -> None:
        self._policy = policy
        self._clock = clock
        self._listeners = listeners
        self._is_periodic = policy.every_steps is not None or policy.every_seconds is not None
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._usual: float | None = None
        self._next = ENOUGH
        """Steps that are still to be timed before their median is taken."""
        self._last: tuple[int, float] | None = None
        self._said: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it may hear of the next steps some steps later; until it has said something, it is waited for."""
        return self._said is not None or not self._is_periodic

    def step(self, step: int, now: float | None = None) -> None:
        """Step `step` was completed at `now` seconds by the clock, or right now."""
        if not self._is_periodic:
            return
        now = self._clock.monotonic() if now is None else now
        made = 0 if self._last is None else step - self._last[0]
        if self._last is not None and made > 0:
            self._time((now - self._last[1]) / made)
        if made or self._last is None:  # a step that is said again is timed from when it was said first
            self._last = (step, now)
        if self._said is None:
            self._say()

    def _time(self, seconds: float) -> None:
        self._steps.append(seconds)
        self._next -= 1
        if not self._next:
            self._next = SELDOM
            self._usual = statistics.median(self._steps)
            self._say()

    def restored(self) -> None:
        """The next step is of another branch, and what lies between was no step."""
        self._last = None

    def _expected(self) -> float | None:
        usual = self._usual
        found = list[float]()
        if self._policy.every_seconds is not None:
            # It is only looked at after a step.
            found.append(max(self._policy.every_seconds, usual or 0.0))
        if self._policy.every_steps is not None and usual is not None:
            found.append(self._policy.every_steps * usual)
        return min(found, default=None)

    def _say(self) -> None:
        seconds = self._expected()
        if seconds is not None and (self._said is None or abs(seconds - self._said) > CHANGE * self._said):
            self._said = seconds
            self._listeners.emit(Expected(seconds))
