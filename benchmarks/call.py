"""Call: how long ``save`` holds the training thread, at 1,000 tensors and 1.5 GB, warm.

250 parameters and their AdamW state: with the moments and the step counts a thousand tensors. Between two saves
there are steps, so that what the call touches is as cold in the caches as in a training.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.events import Event, Stalled
from benchmarks.results import Row, row

PARAMETERS = 250
WIDTH = 707
STEPS = 3
"""Between two saves."""


class _Guards:
    """How long the optimizer waited for each copy."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, Stalled) and event.where == "guard":
            self.seconds.append(event.seconds)


def run(options: argparse.Namespace) -> list[Row]:
    """`options.rounds` times ten warm saves of one process."""
    model = nn.ParameterList(
        [nn.Parameter(torch.randn(WIDTH, 71 if options.quick else WIDTH)) for _ in range(PARAMETERS)]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    guards, calls = _Guards(), list[float]()
    keep = RetentionPolicy(last=1)
    with (
        tempfile.TemporaryDirectory(dir=options.scratch, prefix="bench-") as folder,
        AsyncCheckpointer(
            folder, model=model, optimizer=optimizer, keep=keep, verify="off", listeners=[guards]
        ) as checkpointer,
    ):
        step = 0
        for save in range(2 + (1 if options.quick else 10 * options.rounds)):
            for _ in range(STEPS):
                _train(model, optimizer)
                step += 1
                checkpointer.step(step)
            began = time.perf_counter()
            handle = checkpointer.save(step)
            if save >= 2:  # both generations are in use by then
                calls.append(time.perf_counter() - began)
            _train(model, optimizer)
            handle.wait()
        held = [t for state in optimizer.state.values() for t in state.values()] + list(model)
    case = f"{len(held)} tensors, {sum(t.nbytes for t in held) / 1e9:.2f} GB"
    return [
        row("call", case, "asyncckpt", "call", "ms", [s * 1e3 for s in calls]),
        row("call", case, "asyncckpt", "guard", "ms", [s * 1e3 for s in guards.seconds[2:]]),
    ]


def _train(model: nn.ParameterList, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model:
        parameter.grad = parameter.detach().mul(1e-3)
    optimizer.step()
    optimizer.zero_grad()
