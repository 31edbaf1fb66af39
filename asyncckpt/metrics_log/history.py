"""History: what a metrics log says, each step once. Reading changes nothing.

Rows are taken in the order in which they were written, by all sessions. Where a training went back to an earlier step,
what it had logged beyond that is superseded: it is still in the log and in `History.superseded`, and counts nowhere.
"""

from __future__ import annotations

import heapq
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from asyncckpt.metrics_log.reading import contents
from asyncckpt.metrics_log.rows import Row, decode
from asyncckpt.storage.base import Storage

logger = logging.getLogger("asyncckpt")


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric: `min`, `max` and `mean` of its finite values, NaN without any; `final`, and how many there are.

    `not_finite` of the `count` values are NaN or infinite.
    """

    min: float
    max: float
    mean: float
    final: float
    count: int
    not_finite: int


@dataclass(frozen=True)
class History:
    """The `rows` that count, oldest first; those `superseded`; the steps it `resumed` from, and `bad` lines."""

    rows: tuple[Row, ...] = ()
    superseded: tuple[Row, ...] = ()
    resumed: tuple[int, ...] = ()
    bad: int = 0

    @property
    def latest_step(self) -> int:
        """The highest step with a row; 0 without any."""
        return max((row.step for row in self.rows), default=0)

    @property
    def first_step(self) -> int:
        """The lowest step with a row; 0 without any."""
        return min((row.step for row in self.rows), default=0)

    @property
    def total_steps(self) -> int:
        """How many steps have a row."""
        return len({row.step for row in self.rows})

    @property
    def names(self) -> tuple[str, ...]:
        """Every metric, in the order in which they first came."""
        return tuple(self._values)

    @cached_property
    def _values(self) -> dict[str, dict[int, float]]:
        values: dict[str, dict[int, float]] = {}
        for row in self.rows:
            for name, value in row.metrics.items():
                if isinstance(value, int | float):
                    values.setdefault(name, {})[row.step] = as_float(value)
        return values

    def series(self, name: str) -> tuple[Sequence[int], Sequence[float]]:
        """The steps at which a metric was logged, rising, and its values; empty where it never was.

        Of two values for one step the later counts.
        """
        found = sorted(self._values.get(name, {}).items())
        return [step for step, _ in found], [value for _, value in found]

    def summary(self) -> dict[str, Summary]:
        """Every metric in short."""
        return {name: _summary(self.series(name)[1]) for name in self.names}


def as_float(value: float) -> float:
    """A number as a float; one that is too large for any is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _summary(values: Sequence[float]) -> Summary:
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (math.nan, math.nan)
    return Summary(low, high, _mean(finite), values[-1], len(values), len(values) - len(finite))


def _mean(values: Sequence[float]) -> float:
    if not values:
        return math.nan
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum is too large for a float, and the mean is not
        return math.fsum(value / len(values) for value in values)


def read_metrics(
    folder: str | os.PathLike[str] | Storage, *, storage_options: Mapping[str, Any] | None = None
) -> History:
    """What the metrics log in `folder` says; an empty history where there is none. Raises `StorageError`.

    Lines that are no rows are left out, counted, and told once in a warning.
    """
    rows, bad = rows_of(folder, "metrics", storage_options)
    return history_of(rows, bad)


def history_of(rows: Iterable[Row], bad: int = 0) -> History:
    """The history that `rows` make, in this order."""
    live: list[Row] = []
    superseded: list[Row] = []
    resumed: list[int] = []
    for row in rows:
        if row.event is None:
            live.append(row)
        elif row.event == "resumed":
            resumed.append(row.step)
            superseded += [old for old in live if old.step > row.step]
            live = [old for old in live if old.step <= row.step]
    return History(tuple(live), tuple(superseded), tuple(resumed), bad)


def rows_of(
    folder: str | os.PathLike[str] | Storage, stem: str, storage_options: Mapping[str, Any] | None
) -> tuple[list[Row], int]:
    """Every row of all sessions, in the order of their time, and how many lines are none."""
    bad: list[str] = []
    files = [list(_decoded(name, data, bad)) for name, data in contents(folder, stem, storage_options)]
    if bad:
        logger.warning("%s and %d other lines in all are no rows, and are left out", bad[0], len(bad) - 1)
    return [row for _, row in heapq.merge(*files, key=lambda timed: timed[0])], len(bad)


def _decoded(name: str, data: bytes, bad: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows of one file, each with the time by which it is sorted: within a file, the clock may have gone back."""
    latest = ""
    *lines, last = data.split(b"\n")
    if last:
        lines.append(last)
    for number, line in enumerate(lines, 1):
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            bad.append(f"{name}, line {number} ({error})")
            continue
        latest = max(latest, row.timestamp)
        yield latest, row
