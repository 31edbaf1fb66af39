"""Small tensors: 5,000 parameters with AdamW are 20,000 tensors, here of 0.64 GB.

Beside it the same bytes in one tensor, which no per-tensor cost can slow down.
"""

from __future__ import annotations

from benchmarks.bars import Bar
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import series, warm
from benchmarks.subjects import Bare, Optimized, Subject, parameters, size_of
from benchmarks.systems import OWN, make
from benchmarks.turns import Sample, Turn, take

COUNT = 5_000
NUMEL = 10_667

BARS = (Bar("call", 20, case="tensors"), Bar("durable / one tensor", 1.3))


def run(options: Options) -> Report:
    """Every system in turn, with many tensors and with one."""
    turns = take("small_tensors", [OWN, *options.peers], options.turns(3), options)
    return Report(
        [r for name in turns.systems for r in _rows(name, warm(turns.of(name)))], turns.notes, turns.disturbed
    )


def _rows(name: str, found: list[Sample]) -> list[Row]:
    rows = []
    for many in (True, False):
        samples = [s for s in found if bool(s["many"]) is many]
        case = f"{samples[0]['tensors']:,.0f} tensor{'s' if many else ''}, {samples[0]['bytes'] / 1e9:.2f} GB"
        rows += [
            row("small_tensors", case, name, metric, unit, [s[metric] * scale for s in samples])
            for metric, unit, scale in (("call", "ms", 1e3), ("guard", "ms", 1e3), ("durable", "s", 1.0))
        ]
    many_row, one_row = (next(r for r in rows[at:] if r.metric == "durable") for at in (0, 3))
    ratios = [s["durable"] / one_row.median for s in found if s["many"]]
    return [*rows, row("small_tensors", many_row.case, name, "durable / one tensor", "x", ratios)]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn."""
    count = COUNT // 20 if turn.quick else COUNT
    samples = _saved(turn, Optimized(parameters(count, NUMEL)), "many")
    return samples + _saved(turn, Bare(1, count * NUMEL * 3), "one")


def _saved(turn: Turn, subject: Subject, name: str) -> list[Sample]:
    system = make(turn.system, subject, turn.folder / name)
    found = series(subject, system, saves=1 if turn.quick else 3, between=3)
    system.close()
    tensors, nbytes = size_of(subject)
    return [s | {"many": name == "many", "tensors": tensors, "bytes": nbytes} for s in found]
