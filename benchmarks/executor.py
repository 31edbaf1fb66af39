"""Executor: how long a worker process takes to start, and which states are worth one.

A start is from ``AsyncCheckpointer(...)`` until the process says that it runs; beside it the interpreter alone, which
nothing can start faster than, and one that imports torch, which a worker does not. What a save costs is measured on a
loop that counts in Python, beside saves that follow one another, for states of several sizes: the counting that it
loses for each save, in a thread and in a process. ``digest`` is what `construction.weighing` measures to choose between
them; where that is above its ``WORTH``, the process should cost less. What a worker process holds after such saves
(memory of its own, threads, descriptors, mappings) is counted too.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

from asyncckpt import AsyncCheckpointer, ProcessConfig
from asyncckpt.construction.weighing import WORTH, digest_rate
from asyncckpt.events import WorkerRuns
from benchmarks.bars import Bar
from benchmarks.held import beside
from benchmarks.options import Options
from benchmarks.python_bound import count_rate
from benchmarks.results import Report, Row, row
from benchmarks.saves import WARM, Save
from benchmarks.subjects import Optimized, parameters, size_of
from benchmarks.systems import OWN, PROCESS, THREAD, make
from benchmarks.turns import LIMIT, Sample, Turn, Turns, take

BARS = (Bar("start", 0.5),)

SIZES = (1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20)
QUICK_SIZES = (1 << 20, 2 << 20)
TENSORS = 50
STARTS, QUICK_STARTS = 10, 1
SECONDS, QUICK_SECONDS = 3.0, 0.1
LEAST = 5
"""Saves of each size."""


def run(options: Options) -> Report:
    """The starts with the limits, then saves in a thread and in a process, in turn."""
    turns = take("executor", [OWN, LIMIT, THREAD, PROCESS], options.turns(3), options)
    rows = [
        row("executor", "start", OWN, "start", "s", [s["start"] for s in turns.of(OWN)]),
        row("executor", "start", "limit: the interpreter", "start", "s", [s["bare"] for s in turns.of(LIMIT)]),
        row("executor", "start", "with torch imported", "start", "s", [s["torch"] for s in turns.of(LIMIT)]),
    ]
    sizes = sorted({s["bytes"] for s in turns.of(THREAD)})
    rows += [r for nbytes in sizes for r in _rows(turns, nbytes)]
    return Report(rows, [*turns.notes, f"a process is chosen above {WORTH * 1e3:g} ms of digest"], turns.disturbed)


def _rows(turns: Turns, nbytes: float) -> list[Row]:
    case = f"counting, {nbytes / (1 << 20):,.0f} MiB"
    found = {name: [s for s in turns.of(name) if s["bytes"] == nbytes] for name in (THREAD, PROCESS)}
    digests = [s["digest"] * 1e3 for samples in found.values() for s in samples]
    rows = [row("executor", case, OWN, "digest", "ms", digests)]
    for name, samples in found.items():
        rows.append(row("executor", case, name, "lost for each save", "ms", [s["lost"] * 1e3 for s in samples]))
        rows.append(row("executor", case, name, "durable", "ms", [s["durable"] * 1e3 for s in samples]))
    held = found[PROCESS]
    rows.append(row("executor", case, PROCESS, "worker's memory", "MB", [s["private"] / 1e6 for s in held]))
    counted = ("threads", "descriptors", "mappings")
    return rows + [row("executor", case, PROCESS, f"worker's {key}", "", [s[key] for s in held]) for key in counted]


def measure(turn: Turn) -> list[Sample]:
    """Starts, limits, or what saves cost, by the system."""
    starts = QUICK_STARTS if turn.quick else STARTS
    if turn.system == OWN:
        return [{"start": _start(turn, number)} for number in range(starts)]
    if turn.system == LIMIT:
        return [{"bare": _run("pass"), "torch": _run("import torch")} for _ in range(1 if turn.quick else 3)]
    return [_saving(turn, nbytes) for nbytes in (QUICK_SIZES if turn.quick else SIZES)]


class _Runs:
    """Notes how long a worker process took to run."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.told = threading.Event()

    def on_event(self, event: object) -> None:
        if isinstance(event, WorkerRuns):
            self.seconds = event.seconds
            self.told.set()


def _start(turn: Turn, number: int) -> float:
    runs, model = _Runs(), parameters(1, 1)
    table: Any = Optimized(model).model
    root = turn.folder / f"start-{number}"
    with AsyncCheckpointer(root, model=table, executor=ProcessConfig(), listeners=[runs]):
        if not runs.told.wait(60):
            raise RuntimeError("no worker process runs")
    return runs.seconds


def _run(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def _saving(turn: Turn, nbytes: int) -> Sample:
    """What counting loses for each save of about `nbytes` of state, between which every number of it changes."""
    subject = Optimized(parameters(TENSORS, nbytes // (3 * 4 * TENSORS)))
    subject.step()
    system = make(turn.system, subject, turn.folder / str(nbytes))
    for number in range(WARM):
        Save(system, number).sample()
        subject.step()
    seconds = QUICK_SECONDS if turn.quick else SECONDS
    plain = count_rate(seconds)
    wall, rounds, durable = 0.0, 0.0, list[float]()
    while wall < seconds or len(durable) < (1 if turn.quick else LEAST):
        began = time.perf_counter()
        save = Save(system, WARM + len(durable))
        while not save.is_over:
            rounds += count_rate(0.002) * 0.002
        wall += time.perf_counter() - began
        durable.append(save.sample()["durable"])
        subject.step()
    plain = (plain + count_rate(seconds)) / 2
    held = beside()
    system.close()
    return {
        "bytes": float(nbytes),
        "digest": size_of(subject)[1] / digest_rate(),
        "lost": (wall - rounds / plain) / len(durable),
        "durable": sum(durable) / len(durable),
        **held,
    }
