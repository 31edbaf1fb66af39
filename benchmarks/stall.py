"""Stall: how long one save holds the training thread.

A training of 1,000 tensors and 1.5 GB (250 parameters with their AdamW moments and step counts), the same with an
exponential average beside it, and the README's own example with one. Between two saves there are steps, so that
what the call touches is as cold in the caches as in a training.

And what a call asks of a simulated device: see `stall_on_device`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import stall_on_device
from benchmarks.bars import Bar
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import first, series, warm
from benchmarks.subjects import Example, Optimized, Subject, parameters, size_of
from benchmarks.systems import OWN, make
from benchmarks.turns import Sample, Turn, Turns, take

BARS = (Bar("call", 2.0), Bar("first / later", 1.2), *stall_on_device.BARS)

FACTOR = 1 / 25
"""Of the numbers per tensor, when only to see that it runs."""


@dataclass(frozen=True)
class Case:
    """One training; `between` steps lie between two of its saves."""

    name: str
    make: Callable[[float], Subject]
    between: int
    has_peers: bool


def _training(factor: float, *, averaged: bool = False) -> Optimized:
    return Optimized(parameters(250, int(500_000 * factor)), averaged=averaged)


CASES = (
    Case("a training", _training, 3, True),
    Case("a training and its average", lambda factor: _training(factor, averaged=True), 3, False),
    Case("the README's example and its average", lambda _: Example(), 100, True),
)


def run(options: Options) -> Report:
    """What is simulated, which is the same on every machine; then every system in turn, in every case."""
    simulated = stall_on_device.run(options)
    turns = take("stall", [OWN, *options.peers], options.turns(3), options)
    rows = [r for number, case in enumerate(CASES) for name in turns.systems for r in _rows(turns, number, case, name)]
    return Report([*rows, *simulated.rows], turns.notes, turns.disturbed)


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: every case, one after the other."""
    samples = list[Sample]()
    for number, case in enumerate(CASES):
        if turn.system == OWN or case.has_peers:
            subject = case.make(FACTOR if turn.quick else 1)
            system = make(turn.system, subject, turn.folder / str(number))
            found = series(subject, system, saves=1 if turn.quick else 4, between=case.between)
            system.close()
            tensors, nbytes = size_of(subject)
            samples += [s | {"case": number, "tensors": tensors, "bytes": nbytes} for s in found]
    return samples


def _rows(turns: Turns, number: int, case: Case, name: str) -> list[Row]:
    found = [s for s in turns.of(name) if s["case"] == number]
    if not found:
        return []
    size = f"{found[0]['bytes'] / 1e9:.2f} GB" if found[0]["bytes"] > 1e7 else f"{found[0]['bytes']:,.0f} bytes"
    label = f"{case.name}: {found[0]['tensors']:,.0f} tensors, {size}"

    def of(metric: str, samples: list[Sample]) -> list[float]:
        return [s[metric] * 1e3 for s in samples]

    later = row("stall", label, name, "call", "ms", of("call", warm(found)))
    firsts = of("call", first(found))
    return [
        later,
        row("stall", label, name, "guard", "ms", of("guard", warm(found))),
        row("stall", label, name, "first call", "ms", firsts),
        row("stall", label, name, "first / later", "x", [seconds / later.median for seconds in firsts]),
    ]
