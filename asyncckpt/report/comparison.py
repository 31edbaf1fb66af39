"""Comparison: many runs in one table: what differs in how they were started, and what came of each."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncckpt.metrics_log.history import as_float
from asyncckpt.report import markdown as text
from asyncckpt.report.gathering import Gathered, gather
from asyncckpt.report.words import number, strict

_MOST = 4
"""Metrics that are shown unasked."""
_DIFFER = 12
"""Keys that differ and are shown to people; programs get all."""


@dataclass(frozen=True)
class Measure:
    """One metric of one run: the `final` value, and where the run says what is best, the `best` one and its `step`."""

    final: float | None
    best: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class Entry:
    """One run: what it was started with, by dotted names, and what came of it."""

    run: str
    root: str
    status: str
    step: int
    settings: Mapping[str, Any]
    measures: Mapping[str, Measure]
    problems: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """`entries` in the order that was asked for; `differing` are the settings that are not the same in all."""

    entries: Sequence[Entry]
    metrics: Sequence[str]
    differing: Sequence[str]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows, for people."""
        judged = {name for name in self.metrics if any(e.measures[name].best is not None for e in self._with(name))}
        shown = self.differing[:_DIFFER]
        headings = ["Run", "Status", "Step"]
        for name in self.metrics:
            headings += [name, f"best {name}"] if name in judged else [name]
        rows = [self._row(entry, judged, shown) for entry in self.entries]
        # A learning rate may be both: what was set, and what it was in the end.
        return [*headings, *(f"config.{key}" if key in self.metrics else key for key in shown)], rows

    @property
    def left(self) -> int:
        """How many settings differ that are not in the table."""
        return max(0, len(self.differing) - _DIFFER)

    def _with(self, name: str) -> Iterable[Entry]:
        return (entry for entry in self.entries if name in entry.measures)

    def _row(self, entry: Entry, judged: set[str], shown: Sequence[str]) -> list[str]:
        cells = [entry.run, f"{entry.status}, damaged" if entry.problems else entry.status, f"{entry.step:,}"]
        for name in self.metrics:
            found = entry.measures.get(name, Measure(None))
            cells.append(number(found.final))
            if name in judged:
                cells.append("" if found.best is None else f"{number(found.best)} @{found.step}")
        return [*cells, *(_shown(entry.settings[key]) if key in entry.settings else "-" for key in shown)]

    def markdown(self) -> str:
        """The table, and what is not in it."""
        headings, rows = self.table()
        right = frozenset(["Step", *self.metrics])
        more = f"\n{self.left} more settings differ: they are in the CSV and the JSON.\n" if self.left else ""
        return f"{text.table(headings, rows, right)}\n{more}"

    def csv(self) -> str:
        """Every metric and every differing setting, numbers in full."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        names = [f"{name}.{part}" for name in self.metrics for part in ("final", "best", "best_step")]
        writer.writerow(["run", "root", "status", "step", *names, *self.differing])
        for entry in self.entries:
            found = [entry.measures.get(name, Measure(None)) for name in self.metrics]
            values = [value for each in found for value in (each.final, each.best, each.step)]
            settings = [_shown(entry.settings[key]) if key in entry.settings else "" for key in self.differing]
            writer.writerow([entry.run, entry.root, entry.status, entry.step, *values, *settings])
        return out.getvalue()

    def json(self) -> dict[str, Any]:
        """All of it as plain values; NaN and infinities are strings."""
        return {
            "metrics": list(self.metrics),
            "differing": list(self.differing),
            "runs": [
                {
                    "run": entry.run,
                    "root": entry.root,
                    "status": entry.status,
                    "step": entry.step,
                    "metrics": {
                        name: {"final": strict(m.final), "best": strict(m.best), "best_step": m.step}
                        for name, m in entry.measures.items()
                    },
                    "settings": {key: strict(value) for key, value in entry.settings.items()},
                    "problems": list(entry.problems),
                }
                for entry in self.entries
            ],
        }


def compare(
    roots: Iterable[str | os.PathLike[str]],
    *,
    storage_options: Mapping[str, Any] | None = None,
    metrics: Sequence[str] = (),
    sort: str | None = None,
    descending: bool | None = None,
) -> Comparison:
    """The table of the runs in `roots`, paths or URLs, with those `metrics`, or what the runs themselves go by.

    `sort` is the metric that they are ordered by, the best first where a run says which that is (its ``monitor=``) and
    the smallest else; `descending` says otherwise. Runs that lack it, or whose value is NaN, come last. Raises
    `ValueError` for a metric that none has, and what `gather` raises.
    """
    runs = [gather(root, storage_options=storage_options) for root in roots]
    return compared(runs, metrics=metrics, sort=sort, descending=descending)


def compared(
    runs: Sequence[Gathered],
    *,
    metrics: Sequence[str] = (),
    sort: str | None = None,
    descending: bool | None = None,
) -> Comparison:
    """The table of what was gathered of those `runs`, see `compare`. Raises `ValueError` for a metric that none has."""
    monitors = {m[0]: m[1] for run in reversed(runs) if (m := run.listing.monitor) is not None}
    entries = [_entry(run, monitors) for run in runs]
    known = list(dict.fromkeys(name for entry in entries for name in entry.measures))
    for name in [*metrics, *([sort] if sort is not None else [])]:
        if name not in known:
            raise ValueError(f"no run has a metric {name!r}: there is {', '.join(known) or 'none'}")
    if sort is not None:
        falls = monitors.get(sort) == "max" if descending is None else descending
        entries.sort(key=lambda entry: _place(entry, sort, falls=falls))
    chosen = list(metrics) or _chosen(runs, known, monitors)
    if sort is not None and sort not in chosen:
        chosen.insert(0, sort)
    return Comparison(entries, chosen, _differing(entries))


def _entry(run: Gathered, monitors: Mapping[str, str]) -> Entry:
    settings = dict(_flat(run.config.get("config") or {}))
    version = run.identity.get("code_version")
    if isinstance(version, Mapping):
        settings["code_version"] = f"{version.get('hash')}{'-dirty' if version.get('dirty') else ''}"
    return Entry(run.name, run.url, run.status, run.latest_step, settings, _measures(run, monitors), run.problems)


def _measures(run: Gathered, monitors: Mapping[str, str]) -> dict[str, Measure]:
    points = {name: dict(zip(*run.history.series(name), strict=True)) for name in run.history.names}
    for checkpoint in run.listing.checkpoints:
        for name, value in checkpoint.metrics.items():
            points.setdefault(name, {}).setdefault(checkpoint.step, value)
    finals: dict[str, Any] = {name: values[max(values)] for name, values in points.items()}
    if run.status == "finished" and isinstance(said := run.results.get("final_metrics"), Mapping):
        finals |= {name: as_float(value) for name, value in said.items() if isinstance(value, int | float)}
    return {name: _measure(final, points.get(name, {}), monitors.get(name)) for name, final in finals.items()}


def _measure(final: float, points: Mapping[int, float], mode: str | None) -> Measure:
    finite = {step: value for step, value in points.items() if math.isfinite(value)}
    if mode is None or not finite:
        return Measure(final)
    step = (max if mode == "max" else min)(finite, key=lambda step: finite[step])
    return Measure(final, finite[step], step)


def _chosen(runs: Sequence[Gathered], known: Sequence[str], monitors: Mapping[str, str]) -> list[str]:
    said = [run.results.get("final_metrics") for run in runs]
    results = [name for metrics in said if isinstance(metrics, Mapping) for name in metrics]
    wanted = [name for name in dict.fromkeys([*monitors, *results, *known]) if name in known]
    return wanted[:_MOST]


def _place(entry: Entry, metric: str, *, falls: bool) -> tuple[bool, float]:
    found = entry.measures.get(metric, Measure(None))
    value = found.final if found.best is None else found.best
    if value is None or math.isnan(value):
        return True, 0.0
    return False, -value if falls else value


def _differing(entries: Sequence[Entry]) -> list[str]:
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    missing = object()
    return [
        key
        for key in keys
        if any(e.settings.get(key, missing) != entries[0].settings.get(key, missing) for e in entries)
    ]


def _flat(values: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, values


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
