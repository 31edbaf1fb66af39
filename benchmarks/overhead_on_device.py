"""Overhead on a device: what saving back to back adds to the work of a training on the simulated one. Counts.

Steps are made without saving, and as many while one save follows the other: what the device is asked for beyond the
steps' own is the copies, one for each save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.storage import MemoryStorage
from benchmarks.bars import Bar
from benchmarks.options import Options
from benchmarks.results import Report, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

if TYPE_CHECKING:
    from benchmarks.simulated import Simulated

COUNTS = ("kernels beside the steps' own", "device memory taken", "copies to the host / saves", "races")

BARS = tuple(Bar(name, 1 if "copies" in name else 0) for name in COUNTS)

STEPS, QUICK_STEPS = 100, 10
WARM = 4
"""Saves before anything is counted."""


def run(options: Options) -> Report:
    """One turn: it counts the same in every one."""
    turns = take("overhead_on_device", [OWN], 1, options)
    found = turns.of(OWN)
    case = f"a training on a simulated device: {found[0]['tensors']:,.0f} tensors"
    rows = [row("overhead", case, OWN, name, "", [s[name] for s in found]) for name in (*COUNTS, "saves")]
    return Report(rows, turns.notes)


def measure(turn: Turn) -> list[Sample]:
    """The same steps without and with saves."""
    from asyncckpt.testing import simacc
    from benchmarks.simulated import Simulated

    with simacc.following_threads():  # or what a save's handle tells would order nothing
        return [_counted(Simulated(quick=turn.quick), QUICK_STEPS if turn.quick else STEPS)]


def _counted(subject: Simulated, steps: int) -> Sample:
    from asyncckpt.testing import simacc
    from benchmarks.simulated import more

    start = _stats()
    for _ in range(steps):
        subject.step()
    plain = _stats()
    with AsyncCheckpointer(
        MemoryStorage("overhead"), model=subject.model, optimizer=subject.optimizer, verify="off", executor="thread"
    ) as checkpointer:
        for number in range(WARM):
            checkpointer.save(number).wait()
            subject.step()
        before = _stats()
        saves = _back_to_back(checkpointer, subject, steps)
        after = _stats()
    return {
        "tensors": float(subject.tensors),
        "saves": float(saves),
        "kernels beside the steps' own": more("kernel", before, after) - more("kernel", start, plain),
        "device memory taken": max(0.0, more("live_bytes", before, after)),
        "copies to the host / saves": more("d2h_pinned", before, after) / saves,
        "races": float(len(simacc.races())),
    }


def _back_to_back(checkpointer: AsyncCheckpointer, subject: Simulated, steps: int) -> int:
    """So many steps, and a save after each by which the one before is durable; how many those were."""
    saves, handle = 1, checkpointer.save(WARM)
    for number in range(WARM + 1, WARM + 1 + steps):
        subject.step()
        if handle.done():
            saves, handle = saves + 1, checkpointer.save(number)
    handle.wait()
    return saves


def _stats() -> dict[str, int]:
    """The counters, once nothing is queued."""
    from asyncckpt.testing import simacc

    torch.accelerator.synchronize()
    return simacc.stats()
