"""Curves: metrics over steps as lines to draw. Of a million points as many are drawn as there are pixels.

What is drawn is reckoned here, and the templates write it down: nothing from a run gets into a picture unescaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asyncckpt.serve.scales import Scale, Tick

WIDTH, HEIGHT = 420.0, 176.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 10.0, 24.0
COLOURS = 8
_COLUMNS = 210
"""Of each the least and the greatest value are drawn."""
_LARGEST = 1e300
_ODD = 200
"""Values that are not finite, of one curve, which are drawn."""


@dataclass(frozen=True)
class Series:
    """What is drawn as one line: rising steps, and values."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Line:
    """One line: an SVG path, where it is not finite, and what a pointer over it is told, as JSON."""

    name: str
    colour: int
    path: str
    odd: Sequence[float]
    points: str


@dataclass(frozen=True)
class Chart:
    """A picture of `WIDTH` by `HEIGHT` pixels."""

    title: str
    lines: Sequence[Line]
    across: Sequence[Tick]
    up: Sequence[Tick]
    marks: Sequence[Tick] = ()
    """Steps at which something happened, and what."""
    said: str = ""
    """The same in words, for those who do not see it."""
    last: float | None = None
    """The newest value, where there is one line."""


def chart(
    title: str, series: Sequence[Series], *, marks: Iterable[tuple[int, str]] = (), is_log: bool = False
) -> Chart:
    """The picture of `series`; with `is_log` of what is above 0 of them, where anything is."""
    thin = [thinned(each.steps, each.values) for each in series]
    finite = [value for points in thin for _, value in points if is_drawn(value)]
    is_log = is_log and any(value > 0 for value in finite)
    if is_log:
        finite = [value for value in finite if value > 0]
        thin = [[(step, value) for step, value in points if value > 0 or not is_drawn(value)] for points in thin]
    steps = [step for each in series if each.steps for step in (each.steps[0], each.steps[-1])]
    across = Scale(min(steps, default=0), max(steps, default=1), LEFT, WIDTH - RIGHT)
    up = Scale(*_room(finite, is_log=is_log), HEIGHT - BOTTOM, TOP, is_log)
    return Chart(
        title=title,
        lines=[_line(one.name, number, thin[number], across, up) for number, one in enumerate(series)],
        across=across.ticks(5),
        up=up.ticks(5),
        marks=[Tick(across.at(step), text) for step, text in marks if across.low <= step <= across.high],
        said=f"{title} over steps {across.low:,.0f} to {across.high:,.0f}" + _said(finite),
        last=series[0].values[-1] if len(series) == 1 and series[0].values else None,
    )  # fmt: skip


def spark(values: Sequence[float], width: float = 120.0, height: float = 26.0) -> str:
    """The path of a line without axes, for a table; empty where nothing can be drawn."""
    points = [point for point in thinned(range(len(values)), values, 60) if is_drawn(point[1])]
    if len(points) < 2:
        return ""
    low, high = min(value for _, value in points), max(value for _, value in points)
    across, up = Scale(0, len(values) - 1, 1, width - 1), Scale(low, high, height - 2, 2)
    return _path(points, across, up)


def thinned(steps: Sequence[int], values: Sequence[float], columns: int = _COLUMNS) -> list[tuple[int, float]]:
    """At most two points for each of `columns` equal parts, and some more: the least, the greatest, what is not finite.

    The last point is among them: that is the one people look for.
    """
    if len(steps) <= 2 * columns:
        return list(zip(steps, values, strict=True))
    found: list[tuple[int, float]] = []
    odd = 0
    for column in range(columns):
        begin, end = column * len(steps) // columns, (column + 1) * len(steps) // columns
        finite = [index for index in range(begin, end) if is_drawn(values[index])]
        picked = {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)} if finite else set()
        strange = next((index for index in range(begin, end) if not is_drawn(values[index])), None)
        if strange is not None and odd < _ODD:
            odd += 1
            picked.add(strange)
        found += [(steps[index], values[index]) for index in sorted(picked)]
    if found[-1][0] != steps[-1]:
        found.append((steps[-1], values[-1]))
    return found


def is_drawn(value: float) -> bool:
    """Whether there is a place for `value`: neither NaN nor infinite, nor so large that differences are."""
    return abs(value) < _LARGEST


def _line(name: str, number: int, points: Sequence[tuple[int, float]], across: Scale, up: Scale) -> Line:
    told = [[across.at(step), up.at(value), step, value] for step, value in points if is_drawn(value)]
    odd = [across.at(step) for step, value in points if not is_drawn(value)]
    return Line(name, number % COLOURS, _path(points, across, up), odd, json.dumps(told, separators=(",", ":")))


def _path(points: Sequence[tuple[int, float]], across: Scale, up: Scale) -> str:
    """A line that is broken where a value is not finite; a point by itself is a dot."""
    parts: list[str] = []
    is_down = False
    for step, value in points:
        if is_drawn(value):
            parts.append(f"{'L' if is_down else 'M'}{across.at(step):g} {up.at(value):g}")
            if not is_down:
                parts.append("h.01")
        is_down = is_drawn(value)
    return "".join(parts)


def _room(values: Sequence[float], *, is_log: bool) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if is_log:
        return low / 1.1, high * 1.1
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    below, above = low - margin, high + margin
    return (0.0 if low >= 0 > below else below), above


def _said(values: Sequence[float]) -> str:
    return f", between {min(values):.4g} and {max(values):.4g}" if values else ""
