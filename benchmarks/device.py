"""Device: what one warm save asks of an accelerator and of the host, counted on a simulated one.

Counts and order, never speed: nothing that the simulator takes is what a device would. `host waits` are times at which
the host waited for the device during the call. The step after it is made while the side stream is held: that it returns
at all says that it does not wait for the copies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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
    from asyncckpt.staging import pinning, streams
    from asyncckpt.testing import simacc

    pinning._registrars["sim"] = pinning.Registrar(simacc.host_register, simacc.host_unregister)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4 if turn.quick else 40))).to("sim")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    data = torch.randn(8, 64).to("sim")

    def step() -> None:
        model(data).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # or gradients would come and go

    step()
    samples = list[Sample]()
    options: dict[str, Any] = {"model": model, "optimizer": optimizer, "verify": "off", "executor": "thread"}
    with AsyncCheckpointer(MemoryStorage("device"), **options) as checkpointer:
        for number in range(1, WARM + (2 if turn.quick else SAVES) + 1):
            torch.accelerator.synchronize()
            before = simacc.stats()
            with simacc.hold(streams.stream_device(torch.device("sim", 0))._side):
                handle = checkpointer.save(number)
                called = simacc.stats()
                step()
            handle.wait()
            after = simacc.stats()
            if number > WARM:
                samples.append(_counted(before, called, after, len(simacc.races())))
    tensors = len(list(model.parameters())) * 2
    return [s | {"tensors": tensors} for s in samples]


def _counted(before: dict[str, int], called: dict[str, int], after: dict[str, int], races: int) -> Sample:
    def more(name: str, then: dict[str, int]) -> float:
        return then.get(name, 0) - before.get(name, 0)

    return {
        "host waits": more("host_syncs", called),
        "memory locked": more("pinned_allocs", after) + more("host_registers", after),
        "device memory taken": max(0.0, more("live_bytes", after)),
        "copies to the host": more("d2h_pinned", after),
        "races": races,
    }
