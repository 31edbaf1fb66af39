"""Catalog: what a run of 10,000 checkpoints costs those who list it, and the writer that adds one and prunes one.

The command line is measured as a person has it: a process each time, from its start to its end. No peer keeps a
catalog. The same is measured with 100 checkpoints: what a save and its pruning cost must not depend on how many are
kept. What the file system itself takes longer for in a larger folder is measured beside it: the same files are removed
by hand there, with nothing around the calls, after a look at the names in ``commits/``, as the fence has one before
each deletion: every call takes longer after ten thousand names than after a hundred. A test counts the calls.
"""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.events import Deleted
from benchmarks.bars import Bar
from benchmarks.options import Options
from benchmarks.records import make_run, model
from benchmarks.results import Report, Row, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

COUNTS = (100, 10_000)
QUICK_COUNTS = (10, 200)

BARS = (
    Bar("list", 1.0, case="10,000"),
    Bar("latest", 0.1, case="10,000"),
    Bar("asyncckpt ls", 1.0, case="10,000"),
    Bar("asyncckpt --help", 0.15, case="10,000"),
    Bar("prune one / with few, beyond the file system", 1.2),
)

REPEATS = 3
PRUNED = 60
"""Saves that each prune one."""

COMMANDS = {"asyncckpt ls": ("ls", "{}"), "asyncckpt --help": ("--help",)}


def run(options: Options) -> Report:
    """One process after the other."""
    turns = take("catalog", [OWN], options.turns(2), options)
    found = turns.of(OWN)
    few, many = sorted({s["count"] for s in found})
    rows = [r for count in (few, many) for r in _rows(count, [s for s in found if s["count"] == count])]
    for name in ("prune one", "remove by hand", "save and prune one"):
        least = _median(found, few, name)
        ratios = [s[name] / least for s in found if s["count"] == many and name in s]
        rows.append(row("catalog", _case(many), OWN, f"{name} / with few", "x", ratios))
    grown = (
        _median(found, few, "prune one")
        * _median(found, many, "remove by hand")
        / _median(found, few, "remove by hand")
    )
    beyond = [s["prune one"] / grown for s in found if s["count"] == many and "prune one" in s]
    rows.append(row("catalog", _case(many), OWN, "prune one / with few, beyond the file system", "x", beyond))
    return Report(rows, turns.notes, turns.disturbed)


def _median(found: list[Sample], count: float, name: str) -> float:
    return statistics.median(s[name] for s in found if s["count"] == count and name in s)


def _rows(count: float, found: list[Sample]) -> list[Row]:
    metrics = ("list", "latest", *COMMANDS, "resume", "prune one", "remove by hand", "save and prune one")
    return [row("catalog", _case(count), OWN, name, "s", [s[name] for s in found if name in s]) for name in metrics]


def _case(count: float) -> str:
    return f"{count:,.0f} checkpoints"


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: a run with few checkpoints, then one with many."""
    return [s for count in (QUICK_COUNTS if turn.quick else COUNTS) for s in _measure(turn.folder / str(count), count)]


def _measure(root: Path, count: int) -> list[Sample]:
    make_run(root, count)
    tracked, deleting = model(), _Deleting()
    samples = list[Sample]()
    for _ in range(REPEATS):
        samples.append({name: _timed(functools.partial(_command, c, root)) for name, c in COMMANDS.items()})
    keep = RetentionPolicy(last=count)
    with AsyncCheckpointer(root, model=tracked, keep=keep, listeners=[deleting]) as checkpointer:
        assert len(checkpointer.checkpoints()) == count
        for _ in range(REPEATS):
            samples.append({"list": _timed(checkpointer.checkpoints), "latest": _timed(checkpointer.latest)})
        samples.append({"resume": _timed(checkpointer.resume)})
        for number in range(PRUNED + 2):
            step = count + 1 + number
            seconds = _timed(functools.partial(_save, checkpointer, step))
            if number >= 2:  # what one commit drops is deleted after the next
                samples.append(
                    {"save and prune one": seconds, "prune one": deleting.seconds, "remove by hand": _by_hand(root)}
                )
    return [s | {"count": count} for s in samples]


def _command(arguments: tuple[str, ...], root: Path) -> None:
    """Run the command line, as a process of its own."""
    command = [sys.executable, "-m", "asyncckpt", *(argument.format(root) for argument in arguments)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def _by_hand(root: Path) -> float:
    """Seconds for removing, durably, the files of one checkpoint and its record, after a look at all records."""
    folder, record = root / "data" / "by-hand", root / "commits" / "by-hand"
    folder.mkdir()
    files = [folder / "pack", folder / "manifest", record]
    for file in files:
        file.write_bytes(bytes(8192))
        _sync(file)
    _sync(folder)
    os.listdir(root / "commits")
    return _timed(functools.partial(_remove, files, folder))


def _remove(files: list[Path], folder: Path) -> None:
    for file in files:
        file.unlink()
    folder.rmdir()
    for parent in (folder.parent, files[-1].parent):
        _sync(parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class _Deleting:
    """Listens how long it took to remove what a commit had dropped."""

    seconds = 0.0

    def on_event(self, event: object) -> None:
        if isinstance(event, Deleted):
            self.seconds = event.seconds


def _save(checkpointer: AsyncCheckpointer, step: int) -> None:
    checkpointer.save(step)
    checkpointer.wait()  # until retention has run, too


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
