"""Memory on a device: what a training on the simulated one holds after each of 1,000 saves. None of it may grow."""

from __future__ import annotations

import os
from pathlib import Path

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from benchmarks.bars import Bar
from benchmarks.growth import gained
from benchmarks.options import Options
from benchmarks.results import Report, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

HELD = {
    "page-locked": "bytes",
    "device memory": "bytes",
    "mappings": "",
    "threads": "",
    "descriptors": "",
}

BARS = tuple(Bar(f"{name} gained", 0) for name in HELD)

SAVES = 1_000
QUICK_SAVES = 50


def run(options: Options) -> Report:
    """One turn."""
    turns = take("memory_on_device", [OWN], 1, options)
    found = turns.of(OWN)
    case = f"a training on a simulated device: {found[0]['tensors']:,.0f} tensors, {len(found):,} saves"
    rows = [row("memory", case, OWN, f"{name} gained", unit, gained(found, name)) for name, unit in HELD.items()]
    locked = row("memory", case, OWN, "page-locked", "MB", [s["page-locked"] / 1e6 for s in found])
    return Report([locked, *rows], turns.notes)


def measure(turn: Turn) -> list[Sample]:
    """A save at every step; looked at when it is durable and what it replaces was dropped."""
    import torch

    from asyncckpt.testing import simacc
    from benchmarks.simulated import Simulated

    subject = Simulated(quick=turn.quick)
    saves = QUICK_SAVES if turn.quick else SAVES
    samples = list[Sample]()
    with AsyncCheckpointer(
        turn.folder / "saves",
        model=subject.model,
        optimizer=subject.optimizer,
        keep=RetentionPolicy(last=1),
        executor="thread",
    ) as checkpointer:
        for number in range(saves):
            checkpointer.save(number + 1)
            subject.step()
            checkpointer.wait()
            torch.accelerator.synchronize()
            samples.append(
                {
                    "progress": number / saves,
                    "tensors": subject.tensors,
                    "page-locked": subject.locked,
                    "device memory": simacc.stats()["live_bytes"],
                    "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
                    "threads": len(os.listdir("/proc/self/task")),
                    "descriptors": len(os.listdir("/proc/self/fd")),
                }
            )
    return samples
