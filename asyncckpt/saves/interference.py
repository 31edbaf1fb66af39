"""Interference: how much longer steps take while a save is in flight, and the pace that keeps it within a target.

Steps are timed from one call of ``step`` to the next, or by the optimizer where the loop makes none
(`asyncckpt.saves.rhythm`). Those with a save in flight are compared with those without, and the share of its time that
background work may take follows from the target, since what it takes from training is in proportion to that share.
What the copy into staging memory costs is not: it has to be over before the next optimizer step, and slower it would
be waited for there. But it is spread over as many steps as the save takes, so that it is in that proportion too.

Machines are not steady: on a shared one the same 32 steps take a tenth longer now and then, whatever is saved, which
is five times the target. So no look decides by itself (the share went up and down by a factor of 16 when it did, and
training was slowed by 7 % where 2 % were asked for): what work costs is estimated from all looks, see `_Cost`.

Where saves follow one another so closely that no step is without one, work is held for a few steps now and then.

The share is all that adapts, since all else follows from it or does nothing. It is the rate of writing. It is the
number of threads that digest too, of which there is one: a part of its time is a finer measure than whole threads, and
it digests faster than any store writes. The size of the copies changes for how long the copying thread does without the
interpreter lock, and not what is copied; what sizes cost a training, ``python -m benchmarks chunks`` measures.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Collection
from typing import NamedTuple

from asyncckpt.events import Listeners, Paced

LEAST = 1 / 50
"""Of its time that work takes in any case: a save of a second takes no more than fifty, and one that at full pace
doubles the time of a step is within 2 % at this one."""

ENOUGH = 8
"""Steps without a save from which their median means something."""

SPAN = 32
"""Steps with a save in flight after which the pace is looked at."""

FEW = 4
"""So many are enough once none is in flight any more."""

STALE = 512
"""Steps after which those without a save are too long ago."""

_LONGEST = 4
"""Times as long as steps take now: for no longer work is held, whatever training turns to."""

_OUTLIER = 5
"""Times the median: where few steps take longer, something else was done between them (an evaluation)."""

_RISE, _FALL = 2, 4
"""How much the share may grow or shrink at a look: what is known of other shares is said of those near this one."""

_KEPT = 0.98
"""What a look counts after the next one: some fifty count, so that a machine whose steps vary by 10 % from look to look
is known to a few percent."""

_CLEARLY = 2
"""Times what looks are usually off the line."""


class Flight(NamedTuple):
    """What is in flight when a step is made: whether any save is, whether one is still copied, and which save it is.

    A tuple, since one is made at every step, and a frozen dataclass takes four times as long.
    """

    any: bool
    copying: bool
    saves: int


class Interference:
    """Of one training, on its thread; `target` as in `Budget.slowdown`.

    `apply` is told each new share, and for how many seconds it holds at most.
    """

    def __init__(
        self, target: float | None, apply: Callable[[float, float | None], None], listeners: Listeners
    ) -> None:
        self._target = target
        self._apply = apply
        self._listeners = listeners
        self.share = 1.0
        self._said = 1.0
        self._quiet: deque[float] = deque(maxlen=64)
        self._since_quiet = 0
        self._flown: list[float] = []
        self._probing = 0
        self._last: tuple[int, float, Flight] | None = None
        self._cost = _Cost()

    def step(self, step: int, now: float, flight: Flight) -> None:
        """Step `step` was completed at `now` seconds, with `flight` in flight."""
        last, self._last = self._last, (step, now, flight)
        if self._target is None:
            return
        if last is not None and step == last[0] + 1:
            self._note(now - last[1], last[2], flight)
        if not self._probing:
            self._say(self.share)

    def hurry(self) -> None:
        """Somebody waits: as fast as it goes, until the next step is made."""
        self._probing = 0
        self._say(1.0)

    def _note(self, seconds: float, before: Flight, after: Flight) -> None:
        in_flight = before.any or after.any or before.saves != after.saves
        if self._probing and not (before.copying or after.copying):
            # The first one may have had a piece of work in it that was not over.
            in_flight, self._probing = self._probing > ENOUGH, self._probing - 1
        if not in_flight:
            self._quiet.append(seconds)
            self._since_quiet = 0
        else:
            self._since_quiet += 1
            self._flown.append(seconds)
        if len(self._flown) >= (SPAN if after.any else FEW):
            self._judge()
        if after.any and not after.copying and not self._probing and self._is_blind():
            self._probing = ENOUGH + 1
            self._say(0.0, _LONGEST * self._probing * seconds)

    def _is_blind(self) -> bool:
        return len(self._quiet) < ENOUGH or self._since_quiet > STALE

    def _judge(self) -> None:
        """Compare the steps that were made with a save in flight with those without, and set the pace."""
        flown = self._flown
        if len(self._quiet) < ENOUGH or self._target is None:
            self._flown = flown[-SPAN:]
            return
        self._flown = []
        middle = statistics.median(self._quiet)
        usual, taken = _ordinary(self._quiet, middle), _ordinary(flown, middle)
        slowdown = taken / usual - 1
        noise = _spread(self._quiet, middle) / usual / len(flown) ** 0.5
        self._cost.note(self.share, slowdown, noise, len(flown), self._target)
        self.share = min(1.0, max(LEAST, self.share / _FALL, min(self.share * _RISE, self._cost.share(self._target))))
        self._listeners.emit(Paced(self.share, slowdown, self._target, usual, taken))

    def _say(self, share: float, seconds: float | None = None) -> None:
        if share != self._said:
            self._said = share
            self._apply(share, seconds)


class _Cost:
    """What background work takes of a training at full pace: the line through the origin that fits all looks best.

    Least squares: a look at a share counts by the square of that, since at a small one noise is nearly all there is to
    see. The older a look, the less it counts. One that is far above the line, by what looks have been off it until
    now, is a load that has changed: then it counts alone.
    """

    def __init__(self) -> None:
        self._product = self._square = 0.0
        self._off, self._looks = 0.0, 0.0

    def note(self, share: float, slowdown: float, noise: float, steps: int, target: float) -> None:
        """At `share`, that many steps took longer by the part `slowdown`, of which `noise` is by chance."""
        weight = steps / SPAN
        if self._square:
            off = slowdown - share * self._product / self._square
            usual = (self._off / self._looks) ** 0.5 if self._looks else 0.0
            if slowdown > target and off > _CLEARLY * max(noise, usual):
                self._product = self._square = 0.0
            else:
                self._off, self._looks = self._off * _KEPT + off * off * weight, self._looks * _KEPT + weight
        self._product = self._product * _KEPT + slowdown * share * weight
        self._square = self._square * _KEPT + share * share * weight

    def share(self, target: float) -> float:
        """At which steps take longer by `target`."""
        return target * self._square / self._product if self._product > 0 else 1.0


def _ordinary(values: Collection[float], middle: float) -> float:
    """The mean, without the few that take far longer than the `middle` of all: something else was done there."""
    found = [seconds for seconds in values if seconds <= _OUTLIER * middle]
    return statistics.fmean(found if len(found) > len(values) // 2 else values)


def _spread(values: deque[float], middle: float) -> float:
    """Of one value: the median deviation, as that of a normal distribution."""
    return 1.4826 * statistics.median(abs(value - middle) for value in values)
