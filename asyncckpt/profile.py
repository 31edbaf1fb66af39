"""Profile: where the time of recent saves went, as data and as a table, from what events say: it times nothing."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from asyncckpt.events import Durable, Event, Failed, Requested, Skipped, Staged, Stalled, Superseded

RECENT = 100
"""Saves that are remembered."""

PHASES = ("open", "write", "queue", "stage", "report", "commit")
"""Of the worker, in order; what is not there took no time."""


@dataclass(frozen=True, slots=True)
class SaveTimes:
    """One save. Times are in seconds, sizes in bytes; None is what has not come."""

    step: int
    outcome: str = "under way"
    """Or ``durable``, ``failed``, ``skipped``, ``superseded``."""
    call: float | None = None
    """What the training thread was held by the call."""
    guard: float = 0.0
    """What it was held at the optimizer."""
    staged: float | None = None
    """From the call to a complete snapshot."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """What the worker spent in each of its phases."""
    rested: float = 0.0
    """What of that it did nothing, to spare the training."""
    total: float | None = None
    """From the call to durable."""
    bytes: int = 0
    """Of the state."""
    written: int = 0
    """Put into packs."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The recent saves, oldest first; as text it is a table."""

    saves: tuple[SaveTimes, ...]

    def json(self) -> list[dict[str, Any]]:
        """As JSON objects."""
        return [{**asdict(save), "phases": dict(save.phases)} for save in self.saves]

    def median(self) -> dict[str, float]:
        """Seconds of each stage of a durable save, by its name; empty without one."""
        durable = [_stages(save) for save in self.saves if save.outcome == "durable"]
        return {name: statistics.median(times[name] for times in durable) for name in durable[0]} if durable else {}

    def __str__(self) -> str:
        stages = ("call", "guard", "staged", *PHASES, "total")
        head = ("step", "outcome", *stages, "MB", "MB written")
        rows = [(str(s.step), s.outcome, *_texts(_stages(s), stages), *_sizes(s)) for s in self.saves]
        if middle := self.median():
            rows.append(("median", "", *_texts(middle, stages), "", ""))
        return "\n".join(_lines([head, *rows]))


def _stages(save: SaveTimes) -> dict[str, float]:
    phases = {name: save.phases.get(name, 0.0) for name in PHASES}
    whole = {"call": save.call, "guard": save.guard, "staged": save.staged, **phases, "total": save.total}
    return {name: seconds or 0.0 for name, seconds in whole.items()}


def _texts(stages: Mapping[str, float], names: Iterable[str]) -> list[str]:
    return [f"{stages[name] * 1000:.1f} ms" if stages[name] else "-" for name in names]


def _sizes(save: SaveTimes) -> list[str]:
    return [f"{size / 1e6:.1f}" if size else "-" for size in (save.bytes, save.written)]


def _lines(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]


class Profiler:
    """A listener: remembers what events say of the times of recent saves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._saves: deque[SaveTimes] = deque(maxlen=RECENT)

    def on_event(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Requested(error=None):
                with self._lock:
                    self._saves.append(SaveTimes(event.step))
            case Stalled(where="call"):
                self._add(event.step, call=event.seconds)
            case Stalled():
                self._add(event.step, guard=event.seconds)
            case Staged():
                self._add(event.step, staged=event.seconds, bytes=event.bytes)
            case Durable():
                self._add(
                    event.step,
                    outcome="durable",
                    phases=dict(event.phases),
                    rested=event.rested,
                    total=event.seconds,
                    bytes=event.bytes,
                    written=event.written,
                )
            case Failed() | Skipped() | Superseded():
                self._add(event.step, outcome=type(event).__name__.lower())

    def _add(self, step: int, **known: Any) -> None:
        """To the newest save of `step`."""
        with self._lock:
            for place in range(len(self._saves) - 1, -1, -1):
                if (save := self._saves[place]).step == step:
                    if "guard" in known:
                        known["guard"] += save.guard
                    self._saves[place] = replace(save, **known)
                    return

    def profile(self) -> Profile:
        """What is known now."""
        with self._lock:
            return Profile(tuple(self._saves))
