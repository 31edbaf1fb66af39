"""Comparison: several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asyncckpt.metrics_log.history import History
from asyncckpt.plots import theme
from asyncckpt.plots.curves import LOSS, RATE, draw

_MOST = 5


def comparison(runs: Mapping[str, History], metrics: Sequence[str] | None = None) -> bytes:
    """A picture of what `runs` have in common, by their names: losses, learning rates and other metrics, and last bars.

    Runs may be of any length, and lack any metric; by default those are shown which most of them have.
    """
    names = list(metrics) if metrics is not None else _shared(runs)
    count = len(names) + 1
    note = ", ".join(f"{name}: {history.latest_step:,} steps" for name, history in list(runs.items())[:6])
    made = theme.figure(7 * min(2, count), 1.0 + 3.6 * -(-count // 2), f"{len(runs)} runs", theme.shortened(note, 150))
    *panels, last = theme.grid(made, count, 2)
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, name, runs)
    _bars(last, names, runs)
    return theme.png(made)


def _shared(runs: Mapping[str, History]) -> list[str]:
    counts: dict[str, int] = {}
    for history in runs.values():
        for name in history.names:
            counts[name] = counts.get(name, 0) + 1
    ordered = sorted(counts, key=lambda name: (not LOSS.search(name), not RATE.search(name), -counts[name]))
    return ordered[:_MOST]


def _panel(axes: Any, name: str, runs: Mapping[str, History]) -> None:
    theme.dressed(axes, name, "step")
    missing = []
    for (run, history), color in zip(runs.items(), theme.colors(len(runs)), strict=True):
        steps, values = history.series(name)
        if steps:
            draw(axes, steps, values, color, theme.shortened(run, 32))
        else:
            missing.append(run)
    if missing:
        text = theme.shortened(f"not logged by {', '.join(missing)}", 60)
        axes.text(0.99, 0.98, text, color=theme.FAINT, fontsize=8, ha="right", va="top", transform=axes.transAxes)
    theme.legend(axes, loc="best")


def _bars(axes: Any, names: Sequence[str], runs: Mapping[str, History]) -> None:
    """The last value of each metric, each on a scale of its own: as a part of the largest of the runs."""
    theme.dressed(axes, "final values, as a part of the largest")
    shown = [name for name in names if not RATE.search(name)]
    width = 0.8 / max(1, len(runs))
    finals = [{name: _final(history, name) for name in shown} for history in runs.values()]
    largest = {name: _largest(values[name] for values in finals) for name in shown}
    size = 8 if len(runs) * len(shown) <= 16 else 6.5
    for number, (values, color) in enumerate(zip(finals, theme.colors(len(runs)), strict=True)):
        for place, name in enumerate(shown):
            if not math.isfinite(values[name]):
                continue
            at, height = place + (number - (len(runs) - 1) / 2) * width, values[name] / largest[name]
            axes.bar(at, height, width * 0.92, color=color)
            axes.text(at, height, f"{values[name]:.3g}", color=theme.TEXT, fontsize=size, ha="center", va="bottom")
    axes.set_xticks(range(len(shown)), [theme.shortened(name, 20) for name in shown])
    axes.margins(y=0.14)


def _largest(values: Iterable[float]) -> float:
    return max((abs(value) for value in values if math.isfinite(value)), default=1.0) or 1.0


def _final(history: History, name: str) -> float:
    _, values = history.series(name)
    return values[-1] if values else math.nan
