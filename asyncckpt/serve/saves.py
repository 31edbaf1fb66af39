"""Saves: the timeline of a run's checkpoints: when each was saved, how long it took, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from asyncckpt.report.checkpoints import Line
from asyncckpt.report.gathering import Gathered
from asyncckpt.serve.curves import LEFT, RIGHT, TOP
from asyncckpt.serve.scales import END_OF_TIME, Scale, Tick
from asyncckpt.sizes import size

_T = TypeVar("_T")

WIDTH, HEIGHT = 1140.0, 170.0
NOTHING = frozenset({"failed", "superseded", "skipped"})
"""What a save is called that came to no checkpoint."""
_BOTTOM = 40.0
"""Below the bars is a line for what came to nothing."""
_LOST = 14.0
"""Pixels of that."""
_COLUMNS = 500


@dataclass(frozen=True)
class Bar:
    """One checkpoint, or the tallest of those that share its pixels."""

    at: float
    top: float
    base: float
    state: str
    text: str
    id: str


@dataclass(frozen=True)
class Lost:
    """A save that came to nothing, or one of those that share its pixels."""

    at: float
    state: str
    text: str


@dataclass(frozen=True)
class Timeline:
    """A picture of `WIDTH` by `HEIGHT` pixels; `what` is what the height of a bar says."""

    what: str
    bars: Sequence[Bar]
    lost: Sequence[Lost]
    across: Sequence[Tick]
    up: Sequence[Tick]
    base: float
    said: str
    points: str
    """What a pointer over it is told, as JSON."""


def timeline(run: Gathered, made: Sequence[Line]) -> Timeline | None:
    """The timeline of the saves `made`; None where there is none whose time is known."""
    dated = [line for line in made if line.created is not None and 0 <= line.created < END_OF_TIME]
    ended = [row for row in run.events if row.event in NOTHING]
    moments = {row.step: _moment(row.timestamp) for row in ended}
    lost = [(moments[line.step], line) for line in made if not line.id and line.step in moments]
    times = [line.created or 0.0 for line in dated] + [moment for moment, _ in lost if moment is not None]
    if not times:
        return None
    has_seconds = any(line.seconds is not None for line in dated)
    heights = [(line.seconds if has_seconds else line.size) or 0.0 for line in dated]
    base = HEIGHT - _BOTTOM
    across = Scale(min(times), max(times), LEFT, WIDTH - RIGHT)
    up = Scale(0.0, max([*heights, 0.001]) * 1.08, base, TOP)
    bars = _bars(list(zip(dated, heights, strict=True)), across, up)
    return Timeline(
        what="seconds until durable" if has_seconds else "size",
        bars=bars,
        lost=_lost([(moment, line) for moment, line in lost if moment is not None], across),
        across=across.times(9),
        up=up.ticks(3) if has_seconds else up.bytes(3),
        base=base,
        said=f"{len(dated):,} checkpoints and {len(lost):,} saves that came to nothing, over time",
        points=json.dumps([[bar.at, bar.top, bar.text, bar.id] for bar in bars], separators=(",", ":")),
    )


def _bars(dated: Sequence[tuple[Line, float]], across: Scale, up: Scale) -> list[Bar]:
    """One for each column of pixels: of those in it what is damaged, or else the tallest."""
    found = []
    for among in _columns(dated, across, lambda each: each[0].created or 0.0):
        line, height = max(among, key=lambda each: (each[0].state == "damaged", each[1]))
        more = f"; the longest of {len(among)} here" if len(among) > 1 else ""
        at, top = across.at(line.created or 0.0), min(up.at(height), up.start - 2)
        found.append(Bar(at, top, up.start, line.state, _text(line) + more, line.id))
    return found


def _lost(ended: Sequence[tuple[float, Line]], across: Scale) -> list[Lost]:
    """One for each column of pixels: of those in it one that failed, or else the first."""
    found = []
    for among in _columns(ended, across, lambda each: each[0]):
        moment, line = max(among, key=lambda each: each[1].state == "failed")
        more = f"; one of {len(among)} here" if len(among) > 1 else ""
        found.append(Lost(across.at(moment), line.state, f"step {line.step:,}: {line.state}, {line.fate}{more}"))
    return found


def _columns(marks: Iterable[_T], across: Scale, moment: Callable[[_T], float]) -> list[list[_T]]:
    """Those that share pixels, by the moment of each; from left to right."""
    columns: dict[int, list[_T]] = {}
    for mark in marks:
        at = int((across.at(moment(mark)) - across.start) / (across.end - across.start) * _COLUMNS)
        columns.setdefault(at, []).append(mark)
    return [among for _, among in sorted(columns.items())]


def _text(line: Line) -> str:
    took = "" if line.seconds is None else f", took {line.seconds:.2f} s"
    weighs = "" if line.size is None else f", {size(line.size)}"
    return f"step {line.step:,}{took}{weighs}: {line.fate or line.state}"


def _moment(timestamp: str) -> float | None:
    try:
        found = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
