"""Throughput: from the save call to durable, for a state of 4 GB in 64 tensors, while nothing else runs."""

from __future__ import annotations

from benchmarks.bars import Bar
from benchmarks.limits import copy_seconds, write_seconds
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import series, warm
from benchmarks.subjects import Bare, size_of
from benchmarks.systems import OWN, make
from benchmarks.turns import LIMIT, Sample, Turn, Turns, take

BARS = (Bar("rate / direct write", 0.9, at_least=True),)

NUMEL = 16 << 20
"""Numbers in each of 64 tensors."""


def run(options: Options) -> Report:
    """Every system in turn."""
    turns = take("throughput", [OWN, LIMIT, *options.peers], options.turns(3), options)
    limits = turns.of(LIMIT)
    nbytes = limits[0]["bytes"]
    case = f"{nbytes / 1e9:.2f} GB"
    rows = [r for name in turns.systems for r in _rows(turns, case, name, nbytes)]
    for name, key in (("limit: memory copy", "copy"), ("limit: direct write", "write")):
        rows.append(row("throughput", case, name, "durable", "s", [s[key] for s in limits]))
        rows.append(row("throughput", case, name, "rate", "GB/s", [nbytes / s[key] / 1e9 for s in limits]))
    return Report(rows, turns.notes)


def _rows(turns: Turns, case: str, name: str, nbytes: float) -> list[Row]:
    found = warm(turns.of(name))
    times = turns.against(name, "durable", "write", lambda s: not s["first"])
    return [
        row("throughput", case, name, "call", "ms", [s["call"] * 1e3 for s in found]),
        row("throughput", case, name, "durable", "s", [s["durable"] for s in found]),
        row("throughput", case, name, "rate", "GB/s", [nbytes / s["durable"] / 1e9 for s in found]),
        row("throughput", case, name, "rate / direct write", "x", [1 / time for time in times]),
    ]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn."""
    subject = Bare(64, NUMEL // 64 if turn.quick else NUMEL)
    _, nbytes = size_of(subject)
    repeats = 1 if turn.quick else 2
    if turn.system == LIMIT:
        path = turn.folder / "limit"
        return [
            {"bytes": nbytes, "copy": copy_seconds(nbytes), "write": write_seconds(nbytes, path)}
            for _ in range(repeats)
        ]
    system = make(turn.system, subject, turn.folder / "saves")
    samples = series(subject, system, saves=repeats, between=1)
    system.close()
    return samples
