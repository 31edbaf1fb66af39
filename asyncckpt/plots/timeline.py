"""Timeline: what became of the saves of a run: how long they took, what they wrote, and which are kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from asyncckpt.metrics_log.rows import Row
from asyncckpt.plots import theme

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_LOST = {"failed": ("x", theme.BAD), "superseded": ("v", theme.COLORS[1]), "skipped": ("^", theme.COLORS[2])}
_TIMES = ((172800.0, 86400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def checkpoint_timeline(rows: Sequence[Row], title: str = "Checkpoints") -> bytes:
    """A picture of the `rows` of a checkpoint log, see `asyncckpt.metrics_log.read_checkpoints`, below a `title`."""
    durable = [row for row in rows if row.event == "durable"]
    pruned = {row.metrics["seq"]: row for row in rows if row.event == "pruned"}
    made = theme.figure(13, 8.6, title, _note(rows, durable, pruned))
    grid = made.add_gridspec(2, 2, height_ratios=(1, 1.15))
    _durations(theme.dressed(made.add_subplot(grid[0, 0]), "from the save call to durable", "step", "seconds"), rows)
    _sizes(made.add_subplot(grid[0, 1]), durable)
    _lives(made.add_subplot(grid[1, :]), rows, durable, pruned)
    return theme.png(made)


def _note(rows: Sequence[Row], durable: Sequence[Row], pruned: dict[Any, Row]) -> str:
    kept = sum(row.metrics["seq"] not in pruned for row in durable)
    counts = [(len(durable), "durable"), (kept, "kept"), (len(pruned), "pruned")]
    counts += [(sum(row.event == event for row in rows), event) for event in _LOST]
    return ", ".join(f"{count:,} {what}" for count, what in counts if count or what in ("durable", "kept"))


def _durations(axes: Any, rows: Sequence[Row]) -> None:
    durable = [row for row in rows if row.event == "durable"]
    axes.plot(
        [row.step for row in durable], [row.metrics["seconds"] for row in durable], "o", color=theme.COLORS[0],
        markersize=4, label="durable",
    )  # fmt: skip
    for event, (marker, color) in _LOST.items():
        steps = [row.step for row in rows if row.event == event]
        if steps:
            axes.plot(
                steps, [0.03] * len(steps), marker, color=color, markersize=6, label=event,
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
    axes.set_ylim(bottom=0)
    theme.legend(axes, loc="best")


def _sizes(axes: Any, durable: Sequence[Row]) -> None:
    largest = max((row.metrics["bytes"] for row in durable), default=1.0)
    scale, unit = next((unit for unit in _UNITS if largest >= unit[0]), _UNITS[-1])
    theme.dressed(axes, "what was written, of the state", "step", unit)
    steps = [row.step for row in durable]
    whole, written = ([row.metrics[name] / scale for row in durable] for name in ("bytes", "written"))
    axes.vlines(steps, 0, whole, color="#3b4a63", linewidth=5, label="the state")
    axes.vlines(steps, 0, written, color=theme.COLORS[3], linewidth=5, label="written")
    axes.set_ylim(0, 1.28 * largest / scale)
    theme.legend(axes, loc="upper right", ncols=2)


def _lives(axes: Any, rows: Sequence[Row], durable: Sequence[Row], pruned: dict[Any, Row]) -> None:
    start = min((_time(row) for row in rows), default=0.0)
    end = max((_time(row) for row in rows), default=1.0)
    unit, name = next((unit, name) for least, unit, name in _TIMES if end - start >= least)
    theme.dressed(axes, "which were kept, and for how long", f"{name} since the first", "step")
    drawn: set[str] = set()
    for row in durable:
        until = pruned.get(row.metrics["seq"])
        what, color = ("kept", theme.COLORS[3]) if until is None else ("pruned", theme.FAINT)
        begin, over = ((_time(row) - start) / unit, ((end if until is None else _time(until)) - start) / unit)
        width = 2.6 if until is None else 1.4
        axes.plot([begin, over], [row.step] * 2, color=color, linewidth=width, label=None if what in drawn else what)
        axes.plot(over, row.step, ">" if until is None else "|", color=color, markersize=6)
        drawn.add(what)
    for row in rows:
        if row.event == "resumed":
            label = None if "resumed" in drawn else "resumed"
            axes.axvline((_time(row) - start) / unit, color=theme.COLORS[1], linestyle=":", linewidth=1.2, label=label)
            drawn.add("resumed")
    theme.legend(axes, loc="upper left")


def _time(row: Row) -> float:
    return datetime.fromisoformat(row.timestamp).timestamp()
