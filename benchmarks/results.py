"""Results: rows of one measure each, as JSON lines for machines; see ``table`` for people."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
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


@dataclass(frozen=True)
class Report:
    """What one run of a benchmark found; `notes` say what could not be measured, and how quiet it was."""

    rows: Sequence[Row]
    notes: Sequence[str] = ()
    disturbed: bool = False
    """Others used the machine while this project or a limit was measured: then no bar was met or missed."""


def row(bench: str, case: str, system: str, metric: str, unit: str, samples: Sequence[float]) -> Row:
    """The row of some samples."""
    return Row(bench, case, system, metric, unit, statistics.median(samples), min(samples), max(samples), len(samples))


def write_json(rows: Iterable[Row], path: Path) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in rows))
