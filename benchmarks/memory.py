"""Memory: 1,000 saves of a state of ResNet-50's size; what the processes hold: memory, threads, descriptors.

Memory is the proportional set size of the process and its children, sampled throughout, over the most that training
held without it. This project stages two states by default, and that is its budget; others have none to declare. It
saves in a worker process, whose own memory, threads, descriptors and mappings are looked at by themselves: an
interpreter that has imported what it needs holds some 20 MB, whatever the state, and so a state of a few tensors would
show little else.

And what a training on a simulated device holds: see `memory_on_device`.
"""

from __future__ import annotations

from benchmarks import memory_on_device
from benchmarks.bars import Bar
from benchmarks.growth import gained, warm
from benchmarks.held import Sampled, beside, here, proportional
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import Save
from benchmarks.subjects import Optimized, parameters, size_of
from benchmarks.systems import OWN, PROCESS, loaded, make
from benchmarks.turns import Sample, Turn, take

_COUNTED = ("threads", "descriptors", "mappings")

BARS = (
    Bar("peak / budget", 1.05),
    Bar("growth / budget", 0.01),
    Bar("threads gained", 0),
    Bar("descriptors gained", 0),
    Bar("worker's growth / budget", 0.01),
    *(Bar(f"worker's {key} gained", 0) for key in _COUNTED),
    *memory_on_device.BARS,
)

TENSORS, QUICK_TENSORS = (51, 500_000), (20, 25_000)
"""How many parameters of how many numbers: 25.5 million, as ResNet-50 has, and AdamW's two averages of each."""

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
    turns = take("memory", [PROCESS, *options.peers], options.turns(1), options)
    rows = [r for name in turns.systems for r in _rows(name, turns.of(name))]
    return Report([*rows, *simulated.rows], turns.notes, turns.disturbed)


def _rows(name: str, found: list[Sample]) -> list[Row]:
    state, system = found[0]["state"], OWN if name == PROCESS else name
    budget = GENERATIONS * state
    case = f"{state / 1e6:.0f} MB of state, {GENERATIONS} of it as budget"
    metrics = {
        ("saves", ""): [float(len(found))],
        ("peak", "MB"): [max(s["peak"] for s in found) / 1e6],
        ("growth", "MB"): [value / 1e6 for value in gained(found, "held")],
        ("threads gained", ""): gained(found, "threads"),
        ("descriptors gained", ""): gained(found, "descriptors"),
        ("peak / budget", "x"): [max(s["peak"] for s in warm(found)) / budget],
        ("growth / budget", "x"): [value / budget for value in gained(found, "held")],
    }
    if name == PROCESS:
        metrics |= {(f"worker's {key} gained", ""): gained(found, f"worker's {key}") for key in _COUNTED}
        metrics |= {
            ("worker's memory", "MB"): [s["worker's private"] / 1e6 for s in warm(found)],
            ("worker's growth / budget", "x"): [value / budget for value in gained(found, "worker's private")],
        }
    return [row("memory", case, system, metric, unit, values) for (metric, unit), values in metrics.items()]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn."""
    subject = Optimized(parameters(*(QUICK_TENSORS if turn.quick else TENSORS)))
    loaded(turn.system)  # a library's code is no part of what a save holds
    with Sampled(proportional) as sampled:
        for _ in range(STEPS):
            subject.step()
        before = sampled.take()
    system = make(turn.system, subject, turn.folder / "saves")
    system.after_step(STEPS)
    saves = QUICK_SAVES if turn.quick else SAVES if turn.system == PROCESS else PEER_SAVES
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
                }
                | here()
                | {f"worker's {name}": value for name, value in beside().items()}
            )
    system.close()
    _, nbytes = size_of(subject)
    return [s | {"state": nbytes} for s in samples]
