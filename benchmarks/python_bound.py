"""Python-bound: a training thread that needs the interpreter lock, beside saves that follow one another.

Two loops. One does nothing but count in Python, beside a state of 20,000 tensors: how much slower it gets, and how long
until a save is durable, which is to be read beside it: a save that starves disturbs nobody. The other trains, and makes
each of its batches out of text in Python, as a data loader without workers does: what each save costs it, in wall time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.bars import Bar
from benchmarks.loop import SMALL, Shape, Training
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import Save
from benchmarks.subjects import Optimized, Subject, parameters
from benchmarks.systems import OWN, PROCESS, THREAD, System, make
from benchmarks.turns import Sample, Turn, Turns, take

BARS = (Bar("times as slow", 1.4), Bar("extra of process / of thread", 1.0))

COUNT = 5_000
NUMEL = 10_667
SECONDS = 5.0
"""Of counting without saves, and at least of counting beside them."""

LONGEST = 20.0
"""Seconds after which a save that is not durable has starved."""

SAVES = 8
PLAIN = 20

LOADED = Shape(width=384, layers=6, heads=6, vocabulary=50304, tokens=96)
TEXT = "Every batch of this training is made out of text, word by word, in Python. " * 40


def run(options: Options) -> Report:
    """Every system in turn; this project with a thread and with a process."""
    turns = take("python_bound", [PROCESS, THREAD, *options.peers], options.turns(3), options)
    rows = [r for name in turns.systems for r in _rows(turns, name)]
    if PROCESS in turns.systems and THREAD in turns.systems:
        by_thread = statistics.median(s["extra"] for s in turns.of(THREAD) if "extra" in s)
        ratios = [s["extra"] / by_thread for s in turns.of(PROCESS) if "extra" in s]
        rows.append(row("python_bound", "data loading", OWN, "extra of process / of thread", "x", ratios))
    return Report(rows, turns.notes, turns.disturbed)


def _rows(turns: Turns, name: str) -> list[Row]:
    slowed = [s for s in turns.of(name) if "slower" in s]
    loaded = [s for s in turns.of(name) if "extra" in s]
    system = OWN if name == PROCESS else name
    return [
        row("python_bound", "counting, 20,000 tensors", system, "times as slow", "x", [s["slower"] for s in slowed]),
        row("python_bound", "counting, 20,000 tensors", system, "durable", "s", [s["durable"] for s in slowed]),
        row("python_bound", "data loading", system, "extra", "s", [s["extra"] for s in loaded]),
        row("python_bound", "data loading", system, "durable", "s", [s["durable"] for s in loaded]),
    ]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: first counting, then training."""
    count = COUNT // 50 if turn.quick else COUNT
    subject = Optimized(parameters(count, NUMEL))
    subject.step()
    system = make(turn.system, subject, turn.folder / "counting")
    counted = _beside(subject, system, 0.2 if turn.quick else SECONDS)
    system.close()
    training = Training(SMALL if turn.quick else LOADED)
    training.step()
    system = make(turn.system, training, turn.folder / "loading")
    loaded = _loading(training, system)
    system.close()
    return [*counted, *loaded]


def _beside(subject: Subject, system: System, seconds: float) -> list[Sample]:
    """How much slower counting is beside each of some saves that follow one another; the state stays as it is."""
    _saved(system, 1, lambda: count_rate(0.01))  # threads, memory and plans are there
    _saved(system, 2, lambda: count_rate(0.01))
    plain = count_rate(seconds)
    spent, found = 0.0, list[Sample]()
    while not found or spent < seconds:
        began = time.perf_counter()
        save = Save(system, 10 + len(found))
        counted = count_rate(0.01) * 0.01
        while not save.is_over and time.perf_counter() - began < LONGEST:
            counted += count_rate(0.01) * 0.01
        wall, is_starved = time.perf_counter() - began, not save.is_over
        found.append({"slower": plain * wall / counted, "durable": LONGEST if is_starved else save.sample()["durable"]})
        save.sample()  # one that has starved ends now
        spent += wall
    subject.step()
    return found


def count_rate(seconds: float) -> float:
    """Rounds of counting in a second."""
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(200):
            rounds += 1
    return rounds / (time.perf_counter() - began)


def _loading(training: Training, system: System) -> list[Sample]:
    """What each save costs a training that makes its batches in Python."""

    def step() -> None:
        _batch(training.shape)
        training.step()

    _saved(system, 1, step)
    _saved(system, 2, step)
    plain = _mean(step)
    beside = list[tuple[float, int, float]]()
    while len(beside) < SAVES:
        began, steps = time.perf_counter(), 0
        save = Save(system, 10 + len(beside))
        while not save.is_over:
            step()
            steps += 1
        beside.append((time.perf_counter() - began, steps, save.sample()["durable"]))
    plain = (plain + _mean(step)) / 2
    return [{"extra": wall - steps * plain, "durable": durable} for wall, steps, durable in beside]


def _mean(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(PLAIN):
        step()
    return (time.perf_counter() - began) / PLAIN


def _saved(system: System, step: int, beside: Callable[[], object]) -> None:
    save, began = Save(system, step), time.perf_counter()
    while not save.is_over and time.perf_counter() - began < LONGEST:
        beside()
    save.sample()


def _batch(shape: Shape) -> torch.Tensor:
    """Tokens out of words, as slow as that is in Python: about as long as a step."""
    words: dict[str, int] = {}
    tokens = [0]
    for _ in range(3000 if shape is LOADED else 10):
        tokens = [words.setdefault(word.strip(".,").lower(), len(words)) % shape.vocabulary for word in TEXT.split()]
    return torch.tensor(tokens[: shape.tokens])
