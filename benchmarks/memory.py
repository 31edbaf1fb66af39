"""Memory: 1,000 saves of a small state, and what the process holds meanwhile: memory, threads, descriptors.

Memory is the proportional set size of the process and its children, sampled throughout, over the most that training
held without it. This project stages two states by default, and that is its budget; others have none to declare.

And what a training on a simulated device holds: see `memory_on_device`.
"""

from __future__ import annotations

import os

from benchmarks import memory_on_device
from benchmarks.bars import Bar
from benchmarks.growth import gained, warm
from benchmarks.held import Sampled, proportional
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import Save
from benchmarks.subjects import Optimized, parameters, size_of
from benchmarks.systems import OWN, loaded, make
from benchmarks.turns import Sample, Turn, take

BARS = (
    Bar("peak / budget", 1.05),
    Bar("growth / budget", 0.01),
    Bar("threads gained", 0),
    Bar("descriptors gained", 0),
    *memory_on_device.BARS,
)

SAVES = 1_000
QUICK_SAVES = 50
PEER_SAVES = 100
"""Enough to show what a peer holds: a thousand would take most of an hour."""

GENERATIONS = 2
"""States that this project stages by default."""

STEPS = 30
"""Without saving: gradients come and go in each, and are not what saving holds."""


def run(options: Options) -> Report:
    """What is simulated, which is the same on every machine; then every system in turn, once."""
    simulated = memory_on_device.run(options)
    turns = take("memory", [OWN, *options.peers], options.turns(1), options)
    rows = [r for name in turns.systems for r in _rows(name, turns.of(name))]
    return Report([*rows, *simulated.rows], turns.notes, turns.disturbed)


def _rows(name: str, found: list[Sample]) -> list[Row]:
    state = found[0]["state"]
    case = f"{state / 1e6:.0f} MB of state, {GENERATIONS} of it as budget"
    rows = [
        row("memory", case, name, "saves", "", [float(len(found))]),
        row("memory", case, name, "peak", "MB", [max(s["peak"] for s in found) / 1e6]),
        row("memory", case, name, "growth", "MB", [value / 1e6 for value in gained(found, "held")]),
        row("memory", case, name, "threads gained", "", gained(found, "threads")),
        row("memory", case, name, "descriptors gained", "", gained(found, "descriptors")),
    ]
    budget = GENERATIONS * state
    return [
        *rows,
        row("memory", case, name, "peak / budget", "x", [max(s["peak"] for s in warm(found)) / budget]),
        row("memory", case, name, "growth / budget", "x", [value / budget for value in gained(found, "held")]),
    ]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn."""
    subject = Optimized(parameters(20, 25_000 if turn.quick else 500_000))
    loaded(turn.system)  # a library's code is no part of what a save holds
    with Sampled(proportional) as sampled:
        for _ in range(STEPS):
            subject.step()
        before = sampled.take()
    system = make(turn.system, subject, turn.folder / "saves")
    system.after_step(STEPS)
    saves = QUICK_SAVES if turn.quick else SAVES if turn.system == OWN else PEER_SAVES
    samples = list[Sample]()
    with Sampled(proportional) as sampled:
        for number in range(saves):
            save = Save(system, number + STEPS + 1)
            subject.step()
            save.sample()
            samples.append(
                {
                    "progress": number / saves,
                    "held": proportional() - before,
                    "peak": sampled.take() - before,
                    "threads": len(os.listdir("/proc/self/task")),
                    "descriptors": len(os.listdir("/proc/self/fd")),
                }
            )
    system.close()
    _, nbytes = size_of(subject)
    return [s | {"state": nbytes} for s in samples]
