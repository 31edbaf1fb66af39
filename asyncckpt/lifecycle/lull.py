"""Lull: the next steps, at which nothing can be due. They are only timed, and what follows from that is made up for.

A training says each step, and at nearly all of them there is nothing to do. To find that out takes little while all
that it takes is at hand; but a step of a training goes through more memory than a processor's caches hold, and then
each function that is called is read from afar. So whoever has looked at everything says for how long it will stay so.

Whatever else is asked of the checkpointer ends it. What other threads bring may wait for its end, `LONGEST` steps and
`SECONDS` away at most; a notice may not, and is asked for beside this.
"""

from __future__ import annotations

import math
import os

from asyncckpt.clock import Clock
from asyncckpt.lifecycle.beginning import Beginning
from asyncckpt.saves.cadence import Cadence
from asyncckpt.saves.deciding import Decision
from asyncckpt.saves.saving import Saver

LONGEST = 16
SECONDS = 1.0


class Lull:
    """Of one training, on its thread."""

    def __init__(self, clock: Clock, decision: Decision, saver: Saver, cadence: Cadence, beginning: Beginning) -> None:
        self._monotonic = clock.monotonic
        self._decision = decision
        self._saver = saver
        self._cadence = cadence
        self._beginning = beginning
        self._process = os.getpid()
        self._next = self._until = 0
        self._over = -math.inf
        self._times: list[float] = []
        """When those steps were complete of which nobody knows yet, the last of them before `_next`."""

    def passes(self, step: int) -> bool:
        """Whether `step` is one of them: then it is noted, and nothing else is to be done."""
        if not step == self._next < self._until:
            return False
        now = self._monotonic()
        if now >= self._over or os.getpid() != self._process:  # a fork is told that it has no checkpointer
            return False
        self._times.append(now)
        self._next += 1
        return True

    def begin(self, step: int) -> None:
        """At `step` everything was looked at, and nothing was due: see until when that is so."""
        if self._beginning.is_prepared and self._cadence.is_settled and self._saver.is_idle:
            self._next = step + 1
            self._until, due = self._decision.foreseen(step, LONGEST)
            self._over = min(due, self._monotonic() + SECONDS)

    def end(self) -> None:
        """From now on everything may be otherwise: what there was to learn of the steps is learnt."""
        self._until = 0
        times, self._times = self._times, []
        if not times:
            return
        for step, now in enumerate(times, self._next - len(times)):
            self._saver.rhythm.told(step, now)
            self._cadence.step(step, now)
        self._decision.passed(self._next - 1)
        self._beginning.passed(len(times))
