"""Chunks: what the size of the copies into staging memory costs a training, and for how long its optimizer waits.

What is paced to a target is the work behind the copy: a digest and a write at a time, with rest in between. How large
the pieces are that are copied before is fixed. Here they are of other sizes, in turn, at full pace: if none of them
costs training clearly less than that of today, there is nothing to adapt. ``extra`` is the wall time of each save
beyond what the steps made meanwhile take without saving, ``guard`` for how long an optimizer step waited for the copy.
"""

from __future__ import annotations

import statistics
import time

from asyncckpt.staging import device, pieces
from benchmarks.bars import Bar
from benchmarks.interference import TABLE, Burdened
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import WARM, Save
from benchmarks.systems import OWN, PROCESS, System, make
from benchmarks.turns import Sample, Turn, Turns, take

TODAY = device.GROUP

BARS = (Bar("extra / that of today's size", None),)

SIZES = (1 << 20, 4 << 20, 16 << 20, TODAY, 64 << 20, 256 << 20)
QUICK_SIZES = (1 << 20, TODAY)
SAVES = 5
PLAIN, QUICK_PLAIN = 40, 2
"""Steps without saving, before and after the saves of each size."""


def run(options: Options) -> Report:
    """All sizes in turn, in one process, some times over."""
    turns = take("chunks", [PROCESS], options.turns(3), options)
    sizes = sorted({int(s["size"]) for s in turns.of(PROCESS)})
    return Report([r for size in sizes for r in _rows(turns, size)], turns.notes, turns.disturbed)


def _rows(turns: Turns, size: int) -> list[Row]:
    case = f"copies of {size >> 20} MiB{', as they are' if size == TODAY else ''}"
    found = [s for s in turns.of(PROCESS) if s["size"] == size]
    today = [statistics.median(s["extra"] for s in samples if s["size"] == TODAY) for samples in turns.rounds[PROCESS]]
    ratios = [
        statistics.median(s["extra"] for s in samples if s["size"] == size) / of_today
        for samples, of_today in zip(turns.rounds[PROCESS], today, strict=True)
    ]
    return [
        row("chunks", case, OWN, "extra", "s", [s["extra"] for s in found]),
        row("chunks", case, OWN, "extra / that of today's size", "x", ratios),
        row("chunks", case, OWN, "guard", "ms", [s["guard"] * 1e3 for s in found]),
        row("chunks", case, OWN, "durable", "s", [s["durable"] for s in found]),
    ]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: every size, with a checkpointer of its own."""
    training = Burdened(1 << 20 if turn.quick else TABLE)
    samples, steps_alone = list[Sample](), QUICK_PLAIN if turn.quick else PLAIN
    for size in QUICK_SIZES if turn.quick else SIZES:
        vars(pieces)["GROUP"] = size
        before = _plain(training, steps_alone)
        system = make(PROCESS, training, turn.folder / str(size))
        saved = [_saved(training, system, number) for number in range(WARM + (1 if turn.quick else SAVES))]
        system.close()
        plain = (before + _plain(training, steps_alone)) / 2
        samples += [save | {"size": float(size), "extra": wall - steps * plain} for save, wall, steps in saved[WARM:]]
    return samples


def _saved(training: Burdened, system: System, number: int) -> tuple[Sample, float, int]:
    """One save with steps until it is durable: what it says of itself, for how long that was, and how many steps."""
    began, steps = time.perf_counter(), 0
    save = Save(system, number + 1)
    while not save.is_over:
        training.step()
        steps += 1
    return save.sample(), time.perf_counter() - began, steps


def _plain(training: Burdened, steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        training.step()
    return (time.perf_counter() - began) / steps
