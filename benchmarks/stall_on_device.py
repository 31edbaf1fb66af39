"""Stall on a device: what one save call asks of the simulated one, and of the step after it. Counts and order.

That step is made while the side stream is held: that it returns at all says that neither call nor step waits for the
copies. Counters are the process's, so that a wait of the copying thread may fall into a call: medians count.
"""

from __future__ import annotations

import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.storage import MemoryStorage
from benchmarks.bars import Bar
from benchmarks.options import Options
from benchmarks.results import Report, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

COUNTS = {
    "host waits in the call": "",
    "queued in the call": "marks",
    "copied in the call": "bytes",
    "copies to the host": "",
    "memory locked": "",
    "device memory taken": "bytes",
    "kernels beside a step's own": "",
    "races": "",
}

BARS = (
    Bar("host waits in the call", 0),
    Bar("queued in the call", 1),
    Bar("copied in the call", 0),
    Bar("copies to the host", 1),
    Bar("memory locked", 0),
    Bar("device memory taken", 0),
    Bar("kernels beside a step's own", 0),
    Bar("races", 0),
)

SAVES, QUICK_SAVES = 20, 2
WARM = 4


def run(options: Options) -> Report:
    """One turn: it counts the same in every one."""
    turns = take("stall_on_device", [OWN], 1, options)
    found = turns.of(OWN)
    case = f"a training on a simulated device: {found[0]['tensors']:,.0f} tensors"
    rows = [row("stall", case, OWN, name, unit, [s[name] for s in found]) for name, unit in COUNTS.items()]
    return Report(rows, turns.notes)


def measure(turn: Turn) -> list[Sample]:
    """A save at every step, each of them beside a step that is made while nothing was copied yet."""
    from asyncckpt.testing import simacc
    from benchmarks.simulated import Simulated, copies_held, more

    subject = Simulated(quick=turn.quick)
    before = simacc.stats()
    subject.step()
    own = more("kernel", before, simacc.stats())
    samples = list[Sample]()
    with AsyncCheckpointer(
        MemoryStorage("stall"), model=subject.model, optimizer=subject.optimizer, verify="off", executor="thread"
    ) as checkpointer:
        for number in range(1, WARM + (QUICK_SAVES if turn.quick else SAVES) + 1):
            torch.accelerator.synchronize()
            before = simacc.stats()
            with copies_held():
                handle = checkpointer.save(number)
                called = simacc.stats()
                subject.step()
            handle.wait()
            after = simacc.stats()
            counted = {
                "host waits in the call": more("host_syncs", before, called),
                "queued in the call": more("tasks", before, called),
                "copied in the call": more("d2h_pinned_bytes", before, called)
                + more("d2h_pageable_bytes", before, called),
                "copies to the host": more("d2h_pinned", before, after) + more("d2h_pageable", before, after),
                "memory locked": more("pinned_allocs", before, after) + more("host_registers", before, after),
                "device memory taken": max(0.0, more("live_bytes", before, after)),
                "kernels beside a step's own": more("kernel", before, after) - own,
                "races": float(len(simacc.races())),
                "tensors": float(subject.tensors),
            }
            if number > WARM:
                samples.append(counted)
    return samples
