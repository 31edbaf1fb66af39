"""Run layer: what a training step takes longer for what is written down about it.

A small training that saves now and then, in blocks of steps that take turns: with a checkpointer alone, and with a run
around it: its log of the console with a line printed at each step, its metrics log with eight metrics of which one is
a tensor, and its checkpoint log. Measured is what the calls take, and how much longer steps are beside them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from asyncckpt import AsyncCheckpointer, Budget, Run, SavePolicy
from asyncckpt.trackers import JsonLinesTracker, Trackers
from benchmarks.bars import Bar
from benchmarks.loop import SMALL, Training
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

BARS = (Bar("added", 1.0), Bar("calls", 1.0), Bar("calls, 99 %", None))

BLOCKS, STEPS = 10, 60
QUICK_BLOCKS, QUICK_STEPS = 2, 5
EVERY = 50
"""Steps from one save to the next, in both."""


def run(options: Options) -> Report:
    """One process after the other."""
    turns = take("run_layer", [OWN], options.turns(3), options)
    found = turns.of(OWN)
    case = f"a step of {statistics.median(s['bare'] for s in found) * 1e3:.0f} ms"

    def of(metric: str, key: str) -> Row:
        return row("run_layer", case, OWN, metric, "ms", [s[key] * 1e3 for s in found])

    rows = [of("added", "added"), of("calls", "calls"), of("calls, 99 %", "worst"), of("a step alone", "bare")]
    return Report(rows, turns.notes, turns.disturbed)


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: blocks without and with, one after the other."""
    training = Training(SMALL)
    blocks, steps = (QUICK_BLOCKS, QUICK_STEPS) if turn.quick else (BLOCKS, STEPS)
    save, budget = SavePolicy(every_steps=EVERY), Budget(slowdown=None)
    with Run.open(turn.folder / "run", config={"lr": 1e-4}, mode="new") as described:
        trackers = described.trackers(JsonLinesTracker(f"{described.url}/logs"))
        objects: dict[str, Any] = {
            "model": training.model,
            "optimizer": training.optimizer,
            "save": save,
            "budget": budget,
        }
        with (
            AsyncCheckpointer(turn.folder / "bare", **objects) as bare,
            AsyncCheckpointer(described, **objects) as ckpt,
        ):
            for step in range(1, 6):  # optimizer state appears, and both prepare their first save
                training.step()
                bare.step(step), ckpt.step(step)
            samples, step = list[Sample](), 5
            for _ in range(blocks):
                alone, _ = _block(training, steps, step, lambda number: _alone(bare, number))
                beside, calls = _block(training, steps, step, lambda number: _noted(trackers, ckpt, number))
                step += steps
                samples.append(
                    {
                        "bare": statistics.median(alone),
                        "added": statistics.median(beside) - statistics.median(alone),
                        "calls": statistics.median(calls),
                        "worst": sorted(calls)[int(0.99 * (len(calls) - 1))],
                    }
                )
    return samples


def _block(
    training: Training, steps: int, begin: int, after: Callable[[int], float]
) -> tuple[list[float], list[float]]:
    """The seconds of each step with what comes after it, and what of them is for the run."""
    whole, part = list[float](), list[float]()
    for step in range(begin + 1, begin + steps + 1):
        began = time.perf_counter()
        training.step()
        part.append(after(step))
        whole.append(time.perf_counter() - began)
    return whole, part


def _alone(ckpt: AsyncCheckpointer, step: int) -> float:
    ckpt.step(step)
    return 0.0


def _noted(trackers: Trackers, ckpt: AsyncCheckpointer, step: int) -> float:
    metrics = {f"metric_{number}": 0.1 * number for number in range(7)} | {"loss": torch.tensor(0.5)}
    began = time.perf_counter()
    trackers.log(step, metrics)
    print(f"step {step}: loss 0.5000, lr 1.00e-04")
    seconds = time.perf_counter() - began
    ckpt.step(step)
    return seconds
