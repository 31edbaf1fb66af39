"""A state in page-locked host memory, which the step of a device writes: it is read once that is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.staging import schedule
from asyncckpt.testing import simacc

from .declaring import Declaring
from .trainings import DEVICE


class Offloaded:
    """A parameter and a buffer in host memory; a step sends their values from the device, and the host goes on."""

    def __init__(self, *, buffer: bool = False, size: int = 1000) -> None:
        self.model = nn.Module()
        self.model.weight = nn.Parameter(torch.zeros(size, pin_memory=True))
        if buffer:
            self.model.register_buffer("mean", torch.zeros(size, pin_memory=True))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.store = Declaring("offloaded")

    def checkpointer(self, **options: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(self.store, model=self.model, optimizer=self.optimizer, **options)

    def step(self, value: int) -> None:
        self.optimizer.step()  # asks whether anything is copied; there is no gradient to apply
        for tensor in self.model.state_dict().values():
            tensor.copy_(torch.full(tensor.shape, float(value), device=DEVICE), non_blocking=True)

    def saved(self, step: int) -> set[float]:
        return {x for tensor in asyncckpt.load(self.store, step).state["model"].values() for x in tensor.tolist()}


def declare_what_is_read(patch: pytest.MonkeyPatch) -> None:
    """The copies of host memory, told to the race detector."""
    plain = schedule.copy_group

    def copy_group(destinations: Any, sources: list[Tensor], **options: Any) -> None:
        for source in sources:
            if source.is_pinned():
                simacc.host_access(source)
        plain(destinations, sources, **options)

    patch.setattr(schedule, "copy_group", copy_group)


@pytest.mark.parametrize("verify", ["off", "always"])
def test_T1_host_memory_that_a_device_writes_is_copied_once_that_is_over_and_the_call_waits_for_nothing(
    verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_what_is_read(monkeypatch)
    training = Offloaded()
    with training.checkpointer(verify=verify) as checkpointer:
        checkpointer.save(1).wait()
        for step in (2, 3, 4):
            with simacc.hold(torch.accelerator.current_stream()):
                training.step(step)
                before = simacc.stats().get("host_syncs", 0)
                handle = checkpointer.save(step)
                assert simacc.stats().get("host_syncs", 0) - before <= 1  # of the thread that copies
            if step != 3:  # else the next step has to wait for the copy
                handle.wait()
    assert [training.saved(step) for step in (1, 2, 3, 4)] == [{0.0}, {2.0}, {3.0}, {4.0}]


def test_T1_what_is_EAGER_there_is_waited_for_in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    declare_what_is_read(monkeypatch)
    training = Offloaded(buffer=True)
    simacc.configure(kernel_latency=0.002)
    with training.checkpointer(verify="off") as checkpointer:
        for step in (1, 2, 3):
            training.step(step)
            checkpointer.save(step)
        checkpointer.wait()
    assert [training.saved(step) for step in (1, 2, 3)] == [{1.0}, {2.0}, {3.0}]


def test_T1_through_a_window_too(monkeypatch: pytest.MonkeyPatch) -> None:
    declare_what_is_read(monkeypatch)
    million = 1 << 20
    training = Offloaded(size=60 * million)
    with training.checkpointer(budget=150 * million, verify="off") as checkpointer:
        with simacc.hold(torch.accelerator.current_stream()):
            training.step(1)
            handle = checkpointer.save(1)
        handle.wait()
        assert checkpointer._saver._arenas._free[0].window == 150 * million
    found = asyncckpt.load(training.store, 1).state["model"]["weight"]
    assert bool((found == 1).all())
