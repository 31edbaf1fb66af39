"""Table: rows for people, one table per case: a line per system, a column per metric, median (min..max)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.bars import Bar
from benchmarks.results import Report, Row


def show(report: Report, bars: Sequence[Bar]) -> str:
    """The report as text: its tables, what was not measured, and every bar."""
    cases = dict.fromkeys(entry.case for entry in report.rows)
    tables = [_table(case, [r for r in report.rows if r.case == case]) for case in cases]
    verdicts = [verdict for bar in bars for verdict in bar.verdicts(report.rows, disturbed=report.disturbed)]
    return "\n\n".join(filter(None, [*tables, "\n".join(report.notes), "\n".join(verdicts)]))


def _table(case: str, rows: Sequence[Row]) -> str:
    metrics = list(dict.fromkeys((r.metric, r.unit) for r in rows))
    lines = [[case, *(f"{metric} [{unit}]" for metric, unit in metrics)]]
    for system in dict.fromkeys(r.system for r in rows):
        found = {r.metric: r for r in rows if r.system == system}
        lines.append([system, *(_cell(found.get(metric)) for metric, _ in metrics)])
    return "\n".join(_aligned(lines))


def _aligned(lines: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(entry: Row | None) -> str:
    return "" if entry is None else f"{entry.median:.4g} ({entry.min:.3g}..{entry.max:.3g}, n={entry.n})"
