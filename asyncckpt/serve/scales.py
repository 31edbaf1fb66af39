"""Scales: where values lie along an axis, and the round numbers that are written beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from asyncckpt.sizes import size

END_OF_TIME = 253402300800.0
"""Unix time that no calendar has: clocks may have gone mad."""
_NICE = (1.0, 2.0, 5.0, 10.0)
_TIMES = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800, 2592000, 31536000)
"""Seconds that may lie between two ticks."""


@dataclass(frozen=True)
class Tick:
    """A place along an axis in pixels, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`; `is_log` where equal factors are equally far."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The pixel of `value`, with one digit behind the point."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[Tick]:
        """About `count` round numbers."""
        return [Tick(self.at(value), short(value)) for value in self._round(count)]

    def bytes(self, count: int) -> list[Tick]:
        """The same of sizes."""
        unit = 1024.0 ** int(math.log(max(self.high, 1.0), 1024))
        inner = Scale(self.low / unit, self.high / unit, self.start, self.end)
        return [Tick(tick, size(value * unit)) for value in inner._round(count) for tick in [inner.at(value)]]

    def times(self, count: int) -> list[Tick]:
        """The same of moments, Unix time, in UTC."""
        span = max(self.high - self.low, 1.0)
        years = _TIMES[-1] * math.ceil(span / count / _TIMES[-1])
        step = next((step for step in _TIMES if span / step <= count), years)
        first = math.ceil(self.low / step) * step
        found = [first + step * number for number in range(int((self.high - first) / step) + 1)]
        return [Tick(self.at(moment), _moment(moment, step)) for moment in found]

    def _round(self, count: int) -> Sequence[float]:
        if self.is_log:
            return self._decades(count)
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        raw = span / count
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(nice * unit for nice in _NICE if nice * unit >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _decades(self, count: int) -> Sequence[float]:
        low, high = math.log10(self.low), math.log10(self.high)
        if high - low < 1:
            return Scale(self.low, self.high, 0, 1)._round(count)
        each = max(1, round((high - low) / count))
        return [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1, each)]


def short(value: float) -> str:
    """A number beside an axis: four digits, and k, M or G for what is large."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1e12:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"


def _moment(moment: float, step: float) -> str:
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%b %d" if step < 31536000 else "%Y"
    found = datetime.fromtimestamp(moment, UTC)
    is_midnight = 60 <= step < 86400 and moment % 86400 == 0
    return found.strftime("%b %d" if is_midnight else form)
