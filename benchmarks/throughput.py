"""Throughput: from the save call to durable, for a state of 4 GB in 64 tensors, while nothing else runs."""

from __future__ import annotations

from contextlib import suppress

from benchmarks.bars import Bar
from benchmarks.limits import copy_seconds, huge_write_seconds, write_seconds
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import series, warm
from benchmarks.subjects import Bare, size_of
from benchmarks.systems import OWN, make
from benchmarks.turns import Sample, Turn, take

BARS = (Bar("rate / direct write", 0.9, at_least=True),)

LIMITS = {"limit: memory copy": "copy", "limit: direct write": "write", "limit: direct write from huge pages": "huge"}

NUMEL = 16 << 20
"""Numbers in each of 64 tensors."""


def run(options: Options) -> Report:
    """Every system in turn."""
    turns = take("throughput", [OWN, *options.peers], options.turns(3), options)
    samples = [s for name in turns.systems for s in warm(turns.of(name))]
    nbytes = samples[0]["bytes"]
    case = f"{nbytes / 1e9:.2f} GB"
    rows = [r for name in turns.systems for r in _rows(case, name, warm(turns.of(name)))]
    for name, key in LIMITS.items():
        if key not in samples[0]:
            continue
        rows.append(row("throughput", case, name, "durable", "s", [s[key] for s in samples]))
        rows.append(row("throughput", case, name, "rate", "GB/s", [nbytes / s[key] / 1e9 for s in samples]))
    return Report(rows, turns.notes, turns.disturbed)


def _rows(case: str, name: str, found: list[Sample]) -> list[Row]:
    return [
        row("throughput", case, name, "call", "ms", [s["call"] * 1e3 for s in found]),
        row("throughput", case, name, "durable", "s", [s["durable"] for s in found]),
        row("throughput", case, name, "rate", "GB/s", [s["bytes"] / s["durable"] / 1e9 for s in found]),
        row("throughput", case, name, "rate / direct write", "x", [s["write"] / s["durable"] for s in found]),
    ]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn. Each save is between two direct writes and is compared with their average.

    These are from ordinary pages. This disk's speed changes by half within seconds: one write, after the save, gave
    ratios of 0.7 to 1.9.
    """
    subject = Bare(64, NUMEL // 64 if turn.quick else NUMEL)
    _, nbytes = size_of(subject)
    before = write_seconds(nbytes, turn.folder / "limit")

    def limits() -> Sample:
        nonlocal before
        after = write_seconds(nbytes, turn.folder / "limit")
        write, before = (before + after) / 2, after
        found: Sample = {"bytes": nbytes, "copy": copy_seconds(nbytes // 4) * 4, "write": write}
        with suppress(OSError):  # no huge pages here
            found["huge"] = huge_write_seconds(nbytes, turn.folder / "limit")
        return found

    system = make(turn.system, subject, turn.folder / "saves")
    samples = series(subject, system, saves=1 if turn.quick else 5, between=1, beside=limits)
    system.close()
    return samples
