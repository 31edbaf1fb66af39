"""Interference: how much longer steps take while saves are in flight, uncontrolled and paced to 2 %.

A small training with a large table beside it that is saved again and again, so that digests and writes take a good part
of the machine. Steps with a save in flight over steps without, after the 20 saves in which the pace is found. ``noise``
is what that would differ by where nothing is saved: the standard error of the difference of two means, from how much
those of the steps before each save differ.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from benchmarks.bars import Bar
from benchmarks.loop import SMALL, Training
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import Save
from benchmarks.systems import OWN, PACED, PROCESS, System, make
from benchmarks.turns import Sample, Turn, Turns, take

BARS = (Bar("slowdown above noise", 0.02),)

TABLE = 128 << 20
"""Numbers in the table, 0.5 GB; under an optimizer it is LAZY."""

LEARNING, MEASURED, SERIES = 20, 5, 3
"""Saves in which the pace is found, saves in a series after that, and how many series of them are measured."""

QUIET = 40
"""Steps between two saves, without any in flight."""


def run(options: Options) -> Report:
    """Uncontrolled and paced in turn: no peer paces anything."""
    turns = take("interference", [PROCESS, PACED], options.turns(2), options)
    return Report([r for name in turns.systems for r in _rows(turns, name)], turns.notes, turns.disturbed)


def _rows(turns: Turns, name: str) -> list[Row]:
    found = turns.of(name)
    case = f"table of {found[0]['bytes'] / 1e9:.2f} GB"
    system = OWN if name == PACED else name
    return [
        row("interference", case, system, "slowdown", "part", [s["slowdown"] for s in found]),
        row("interference", case, system, "noise", "part", [s["noise"] for s in found]),
        row("interference", case, system, "slowdown above noise", "part", [s["slowdown"] - s["noise"] for s in found]),
        row("interference", case, system, "durable", "s", [s["durable"] for s in found]),
        row("interference", case, system, "step", "ms", [s["step"] * 1e3 for s in found]),
    ]


class Burdened(Training):
    """A small model, and a table that is saved with it; each step changes one number of that."""

    def __init__(self, numel: int) -> None:
        super().__init__(SMALL)
        self.table = nn.Parameter(torch.randn(numel))
        self.model.register_parameter("table", self.table)
        self.optimizer.add_param_group({"params": [self.table]})

    def step(self) -> None:
        for _ in range(4):
            super().step()
        with torch.no_grad():
            self.table[:: 1 << 20] += 1  # in every extent, so that saves stay full ones


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: saves in a row with steps without between them."""
    numel = 1 << 20 if turn.quick else TABLE
    training = Burdened(numel)
    system = make(turn.system, training, turn.folder / "saves")
    loop = _Loop(training, system)
    for _ in range(2 if turn.quick else LEARNING):
        loop.save()
    found = [_series(loop, 1 if turn.quick else MEASURED) for _ in range(1 if turn.quick else SERIES)]
    system.close()
    return [one | {"bytes": numel * 4} for one in found]


def _series(loop: _Loop, saves: int) -> Sample:
    """How much longer steps took beside some saves in a row."""
    samples = [loop.save() for _ in range(saves)]
    quiet, flown = [t for s in samples for t in s[0]], [t for s in samples for t in s[1]]
    usual = statistics.fmean(quiet)
    # Steps near one another are slow together: their own spread would say that less is by chance than is.
    means = [statistics.fmean(s[0]) for s in samples]
    error = (statistics.stdev(means) if len(means) > 1 else 0.0) / usual
    return {
        "slowdown": statistics.fmean(flown) / usual - 1,
        "noise": error * (2 / len(means)) ** 0.5,
        "durable": statistics.median(s[2] for s in samples),
        "step": usual,
    }


class _Loop:
    def __init__(self, training: Burdened, system: System) -> None:
        self._training = training
        self._system = system
        self._at = 0

    def save(self) -> tuple[list[float], list[float], float]:
        """Steps without a save, then one and steps until it is durable: their seconds, and its own."""
        quiet = [self._step() for _ in range(QUIET)]
        save, flown = Save(self._system, self._at), list[float]()
        while not save.is_over:
            flown.append(self._step())
        return quiet, flown or [statistics.median(quiet)], save.sample()["durable"]

    def _step(self) -> float:
        began = time.perf_counter()
        self._training.step()
        self._at += 1
        self._system.after_step(self._at)
        return time.perf_counter() - began
