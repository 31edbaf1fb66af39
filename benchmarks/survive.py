"""Survive: trainers that are killed right after staging, and started again at once.

Each makes one snapshot more than its forerunner resumed from, returns from ``wait_staged()`` and is killed with SIGKILL
the next instant, its save not durable yet. How many of those that follow resume from that snapshot, and how long it
takes from the kill until a new process has it back in memory, its own start included.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from benchmarks.bars import Bar
from benchmarks.options import Options
from benchmarks.results import Report, row
from benchmarks.subjects import Optimized, parameters, size_of
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

BARS = (Bar("resumed from what was staged", 1.0, at_least=True),)

KILLS = 100
COUNT, NUMEL = 40, 200_000
"""Parameters, with AdamW: 96 MB of state."""


def run(options: Options) -> Report:
    """One turn: no peer promises this."""
    turns = take("survive", [OWN], 1, options)
    found = turns.of(OWN)
    case = f"{len(found)} kills, {found[0]['bytes'] / 1e6:.0f} MB"
    rows = [
        row("survive", case, OWN, "resumed from what was staged", "of 1", [s["survived"] for s in found]),
        row("survive", case, OWN, "committed after the kill", "of 1", [s["late"] for s in found]),
        row("survive", case, OWN, "from the kill to restored", "s", [s["seconds"] for s in found]),
    ]
    lost = sum(1 for s in found if not s["survived"])
    return Report(rows, [*turns.notes, f"{lost} of {len(found)} snapshots were lost"], turns.disturbed)


def measure(turn: Turn) -> list[Sample]:
    """Trainers one after the other, each a process of its own."""
    root, samples = turn.folder / "run", list[Sample]()
    killed, status, before = time.perf_counter(), "durable", 0
    for number in range((3 if turn.quick else KILLS) + 1):
        trainer = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.survive", str(root), str(int(turn.quick))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert trainer.stdout is not None
        resumed, nbytes = map(int, trainer.stdout.readline().split())
        seconds = time.perf_counter() - killed
        if number:
            samples.append(
                {"survived": resumed == before, "late": status != "durable", "seconds": seconds, "bytes": nbytes}
            )
        before, status = resumed + 1, trainer.stdout.readline().strip()
        trainer.communicate()
        killed = time.perf_counter()
        assert trainer.returncode == -signal.SIGKILL
    return samples


def trainer(root: Path, quick: bool) -> None:
    """Resume, make one step, save it, and die as soon as it is staged."""
    torch.set_num_threads(1)
    subject = Optimized(parameters(2 if quick else COUNT, NUMEL))
    subject.step()
    checkpointer = AsyncCheckpointer(
        root,
        model=subject.model,
        optimizer=subject.optimizer,
        keep=RetentionPolicy(last=2),
        executor="process",
        verify="off",
    )
    state = checkpointer.resume()
    step = state.step if state else 0
    print(step, size_of(subject)[1], flush=True)
    subject.step()
    handle = checkpointer.save(step + 1)
    handle.wait_staged()
    os.write(1, f"{handle.status}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    trainer(Path(sys.argv[1]), bool(int(sys.argv[2])))
