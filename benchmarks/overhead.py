"""Overhead: what one save costs a training loop, from the call until it is durable.

``call`` is how long ``save`` held the loop, ``guard`` how long the optimizer waited for the copy, ``extra`` the
wall time of the loop from the call to durable beyond what its steps take without saving: stall and slow-down
together. ``durable`` is from the call to the last fsync. The first save of each process is reported apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.limits import copy_seconds, write_seconds
from benchmarks.results import Row, row

if TYPE_CHECKING:
    from benchmarks.systems import System

SAVES = 3
"""Per process: one first save, the others warm."""

LEAST_STEPS = 3


def run(options: argparse.Namespace) -> list[Row]:
    """Every system in turn, in processes of their own; then the limits for the same bytes."""
    from benchmarks.systems import SYSTEMS

    systems = [s for s in options.systems.split(",") if s] or list(SYSTEMS)
    rounds = 1 if options.quick else options.rounds
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="bench-") as folder:
        for turn in range(rounds):
            for name in systems:
                print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                samples[name] += _child(name, folder, options.quick)
        nbytes = int(samples[systems[0]][0]["bytes"])
        case = f"{nbytes / 1e9:.2f} GB"
        rows = [r for name in systems for r in _rows(case, name, samples[name])]
        copies = [copy_seconds(nbytes) for _ in range(3)]
        writes = [write_seconds(nbytes, Path(folder)) for _ in range(3)]
    rows.append(row("overhead", case, "limit: memory copy", "extra", "s", copies))
    rows.append(row("overhead", case, "limit: direct write", "durable", "s", writes))
    return rows


def _rows(case: str, name: str, samples: list[dict[str, float]]) -> list[Row]:
    warm = [s for s in samples if not s["first"]]
    first = [s for s in samples if s["first"]]
    units = {"call": ("ms", 1e3), "guard": ("ms", 1e3), "extra": ("s", 1.0), "durable": ("s", 1.0)}
    rows = [
        row("overhead", case, name, metric, unit, [s[metric] * scale for s in warm])
        for metric, (unit, scale) in units.items()
    ]
    return [*rows, row("overhead", case, name, "first call", "ms", [s["call"] * 1e3 for s in first])]


def _child(name: str, folder: str, quick: bool) -> list[dict[str, float]]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.overhead", name, folder, str(int(quick))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, folder: Path, quick: bool) -> list[dict[str, float]]:
    """One process's turn: warm up, then `SAVES` saves, each with the loop running until it is durable."""
    from benchmarks.loop import SMALL, Shape, Training
    from benchmarks.systems import SYSTEMS

    training = Training(SMALL if quick else Shape())
    root = folder / name
    training.step()
    system = SYSTEMS[name](training, root)
    for step in range(1, 4):
        training.step()
        system.after_step(step)

    def hook(*_: object) -> None:
        began = time.perf_counter()
        system.before_step()
        system.waited += time.perf_counter() - began

    samples = []
    for save in range(SAVES):
        plain = statistics.median(_timed(training.step) for _ in range(4))
        hooked = training.optimizer.register_step_pre_hook(hook)
        system.waited = 0.0
        began = time.perf_counter()
        system.save(save + 10)
        call = time.perf_counter() - began
        durable: list[float] = []
        waiter = threading.Thread(target=_wait, args=(system, began, durable))
        waiter.start()
        steps = 0
        while steps < LEAST_STEPS or waiter.is_alive():
            training.step()
            steps += 1
        wall = time.perf_counter() - began
        waiter.join()
        hooked.remove()
        samples.append(
            {
                "call": call,
                "guard": system.waited,
                "extra": wall - steps * plain,
                "durable": durable[0],
                "first": float(save == 0),
                "bytes": float(training.nbytes),
            }
        )
    system.close()
    shutil.rmtree(root, ignore_errors=True)
    return samples


def _wait(system: System, began: float, durable: list[float]) -> None:
    system.wait()
    durable.append(time.perf_counter() - began)


def _timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), bool(int(sys.argv[3])))))
