"""Results: rows of one measure each, as a table for people and as JSON lines for machines."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measured quantity of one system."""

    bench: str
    case: str
    system: str
    metric: str
    unit: str
    median: float
    min: float
    max: float
    n: int


def row(bench: str, case: str, system: str, metric: str, unit: str, samples: Sequence[float]) -> Row:
    """The row of some samples."""
    return Row(bench, case, system, metric, unit, statistics.median(samples), min(samples), max(samples), len(samples))


def print_table(rows: Sequence[Row]) -> None:
    """One line per system, one column per metric: median (min..max)."""
    metrics = list(dict.fromkeys((r.metric, r.unit) for r in rows))
    by_system: dict[str, dict[str, Row]] = {}
    for entry in rows:
        by_system.setdefault(f"{entry.case}  {entry.system}", {})[entry.metric] = entry
    table = [["", *(f"{metric} [{unit}]" for metric, unit in metrics)]]
    for system, found in by_system.items():
        table.append([system, *(_cell(found.get(metric)) for metric, _ in metrics)])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(entry: Row | None) -> str:
    return "" if entry is None else f"{entry.median:.4g} ({entry.min:.3g}..{entry.max:.3g}, n={entry.n})"


def write_json(rows: Sequence[Row], path: Path) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in rows))
