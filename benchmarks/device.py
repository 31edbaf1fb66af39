"""Device: what one warm save asks of an accelerator and of the host, counted on a simulated one.

Counts and order, never speed: nothing that the simulator takes is what a device would. `host waits` are times at which
the host waited for the device during the call. The step after it is made while the side stream is held: that it returns
at all says that it does not wait for the copies.
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

COUNTS = ("host waits", "memory locked", "device memory taken", "copies to the host", "races")

BARS = tuple(Bar(name, 0) for name in COUNTS if name != "copies to the host")

SAVES = 20
WARM = 4


def run(options: Options) -> Report:
    """One turn: it counts the same in every one."""
    turns = take("device", [OWN], 1, options)
    found = turns.of(OWN)
    case = f"simulated device: {found[0]['tensors']:,.0f} tensors"
    rows = [row("device", case, OWN, name, "of each save", [s[name] for s in found]) for name in COUNTS]
    return Report(rows, turns.notes, turns.disturbed)


def measure(turn: Turn) -> list[Sample]:
    """Saves at every step of a training on the simulated device."""
    from asyncckpt.testing import simacc
    from benchmarks.simulated import Simulated, copies_held

    subject = Simulated(quick=turn.quick)
    samples = list[Sample]()
    with AsyncCheckpointer(
        MemoryStorage("device"), model=subject.model, optimizer=subject.optimizer, verify="off", executor="thread"
    ) as checkpointer:
        for number in range(1, WARM + (2 if turn.quick else SAVES) + 1):
            torch.accelerator.synchronize()
            before = simacc.stats()
            with copies_held():
                handle = checkpointer.save(number)
                called = simacc.stats()
                subject.step()
            handle.wait()
            after = simacc.stats()
            if number > WARM:
                samples.append(_counted(before, called, after, len(simacc.races())))
    return [s | {"tensors": subject.tensors} for s in samples]


def _counted(before: dict[str, int], called: dict[str, int], after: dict[str, int], races: int) -> Sample:
    from benchmarks.simulated import more

    return {
        "host waits": more("host_syncs", before, called),
        "memory locked": more("pinned_allocs", before, after) + more("host_registers", before, after),
        "device memory taken": max(0.0, more("live_bytes", before, after)),
        "copies to the host": more("d2h_pinned", before, after),
        "races": races,
    }
