"""Curves: how metrics went, step by step."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from asyncckpt.metrics_log.history import History
from asyncckpt.plots import theme

LOSS = re.compile(r"(?i)(^|[_/.\s])(loss|nll|cross_entropy)")
RATE = re.compile(r"(?i)(^|[_/.\s])(lr|learning_?rate)([_/.\s]|$|\d)")
_MOST = 11
_SMOOTH_FROM = 60
"""Points from which on a curve may be noise."""


def training_curves(history: History, title: str = "Training", metrics: Sequence[str] | None = None) -> bytes:
    """A picture of a `history` below a `title`: losses, learning rates, and every other metric, each in a panel.

    With `metrics`, those alone.
    """
    names = list(history.names if metrics is None else metrics)
    panels = _panels(names)
    more = f", and {len(panels) - 1 - _MOST} more that are not shown" if len(panels) > _MOST + 1 else ""
    panels = panels[: _MOST + 1]
    note = f"{history.total_steps:,} steps logged, the last is {history.latest_step:,}{_resumes(history)}{more}"
    made = theme.figure(7 * min(2, len(panels)), 1.0 + 3.4 * -(-len(panels) // 2), title, note)
    for axes, (name, members) in zip(theme.grid(made, len(panels), 2), panels, strict=True):
        _panel(axes, name, members, history)
    return theme.png(made)


def learning_rate(history: History, title: str = "Learning rate") -> bytes:
    """A picture of the learning rates of a `history` alone, below a `title`."""
    return training_curves(history, title, [name for name in history.names if RATE.search(name)])


def metric(history: History, name: str) -> bytes:
    """A picture of the metric `name` of a `history`."""
    return training_curves(history, name, [name])


def _resumes(history: History) -> str:
    count = len(history.resumed)
    return f", resumed {count} time{'s' * (count > 1)} (dotted)" if count else ""


def _panels(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    losses = [name for name in names if LOSS.search(name)]
    rates = [name for name in names if RATE.search(name)]
    others = [name for name in names if name not in losses and name not in rates]
    panels = [(_head(losses, "loss"), losses)] * bool(losses) + [(_head(rates, "learning rate"), rates)] * bool(rates)
    panels += [(name, [name]) for name in others]
    return panels or [("nothing is logged yet", [])]


def _head(names: Sequence[str], what: str) -> str:
    return names[0] if len(names) == 1 else what


def _panel(axes: Any, title: str, names: Sequence[str], history: History) -> None:
    theme.dressed(axes, title, "step")
    values: list[float] = []
    for name, color in zip(names, theme.colors(len(names)), strict=True):
        steps, found = history.series(name)
        draw(axes, steps, found, color, name)
        values += [value for value in found if math.isfinite(value)]
    if not values:
        axes.text(0.5, 0.5, "no values", color=theme.FAINT, ha="center", va="center", transform=axes.transAxes)
    is_loss = bool(names) and LOSS.search(names[0]) is not None
    if is_loss and values and min(values) > 0 and max(values) / min(values) > 30:
        axes.set_yscale("log")
    for step in history.resumed:
        axes.axvline(step, color=theme.FAINT, linewidth=1, linestyle=":")
    if len(axes.get_legend_handles_labels()[1]) > 1:
        theme.legend(axes, loc="best")


def draw(axes: Any, steps: Sequence[int], values: Sequence[float], color: str, label: str) -> None:
    """One curve; where it is noise its trend is drawn over it, and values that are not finite are marked."""
    is_noise = _is_noise(values)
    marker = {"marker": "o", "markersize": 3.5} if len(steps) < 30 else {}
    axes.plot(
        steps, values, color=color, linewidth=0.8 if is_noise else 1.8, alpha=0.38 if is_noise else 1,
        label=None if is_noise else label, **marker,
    )  # fmt: skip
    if is_noise:
        axes.plot(steps, smoothed(values), color=color, linewidth=2, label=label)
    bad = [step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
    if bad:
        known = axes.get_legend_handles_labels()[1]
        axes.plot(
            bad, [0.02] * len(bad), "x", color=theme.BAD, markersize=5, transform=axes.get_xaxis_transform(),
            label=None if "not finite" in known else "not finite",
        )  # fmt: skip


def _is_noise(values: Sequence[float]) -> bool:
    """Whether it goes up and down more often than a curve does."""
    changes = [after - before for before, after in itertools.pairwise(values) if math.isfinite(after - before)]
    turns = sum(before * after < 0 for before, after in itertools.pairwise(changes))
    return len(values) >= _SMOOTH_FROM and turns > len(changes) / 4


def smoothed(values: Sequence[float]) -> list[float]:
    """The trend of `values`: of each, the average of those before and after it, the nearer the weightier."""
    keep = 1 - 1 / max(3.0, len(values) / 40)
    before, after = _sums(values, keep), _sums(values[::-1], keep)[::-1]
    # Both weigh as much as there is behind them: at either end one of them is a single value.
    sums = [(one + other, a + b) for (one, a), (other, b) in zip(before, after, strict=True)]
    return [total / weight if weight else math.nan for total, weight in sums]


def _sums(values: Sequence[float], keep: float) -> list[tuple[float, float]]:
    """Of the values up to each, the more recent the weightier: their sum, and the sum of their weights."""
    total = weight = 0.0
    sums = []
    for value in values:
        if math.isfinite(value):
            total = keep * total + (1 - keep) * value
            weight = keep * weight + 1 - keep
        sums.append((total, weight))
    return sums
