"""A snapshot is the state at the call of `save`, whatever training does to it right after that."""

from __future__ import annotations

import copy
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import SaveFailed
from asyncckpt.events import Durable, Event, Staged, Stalled
from asyncckpt.staging import pieces, schedule
from asyncckpt.storage import MemoryStorage
from asyncckpt.worker.watermark import Watermark
from tests.golden.make import Box

from .held import Gate, Net, add_one, train


class Training:
    """One of everything that a training changes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Net()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=torch.tensor(0.1))
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
        self.scaler.scale(torch.ones(1))  # only now it has tensors
        self.average = AveragedModel(self.model, use_buffers=True)
        self.box = Box({"list": [1, [2]], "dict": {"a": {"b": 1}}, "array": np.zeros(3), "bytes": bytearray(b"ab")})
        train(self.model, self.optimizer)

    @property
    def parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.schedule,
            "scaler": self.scaler,
            "extra": {"average": self.average, "box": self.box},
        }

    def state(self) -> dict[str, Any]:
        """A deep copy of what is to be saved."""
        live = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(),
            "scaler": {
                **self.scaler.state_dict(),
                "scale": self.scaler._scale,  # as it is, where it is
                "_growth_tracker": self.scaler._growth_tracker,
            },
            "extra": {"average": self.average.state_dict(), "box": self.box.state_dict()},
        }
        return copy.deepcopy(live)


def scaled_step(training: Training) -> None:
    loss = training.model(torch.randn(8, 4)).square().sum()
    training.scaler.scale(loss).backward()
    training.scaler.step(training.optimizer)
    training.scaler.update()


def change_values(training: Training) -> None:
    training.box.state["list"][1].append(3)
    training.box.state["dict"]["a"]["b"] = 2
    training.box.state["array"][:] = 1
    training.box.state["bytes"][0] = 0


CHANGES: dict[str, Callable[[Training], object]] = {
    "optimizer.step": lambda t: train(t.model, t.optimizer),
    "scaler.step": scaled_step,
    "forward": lambda t: t.model(torch.randn(8, 4)),
    "scheduler.step": lambda t: t.schedule.step(),
    "update_parameters": lambda t: t.average.update_parameters(t.model),
    "values of a Stateful": change_values,
    "hyperparameters": lambda t: t.optimizer.param_groups[0].update(weight_decay=0.5, betas=(0.1, 0.2)),
    "the learning rate's tensor": lambda t: t.optimizer.param_groups[0]["lr"].fill_(7),
    "new parameters": lambda t: setattr(t.model, "linear", nn.Linear(4, 4)),
    "load_state_dict": lambda t: t.optimizer.load_state_dict(torch.optim.AdamW(t.model.parameters()).state_dict()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_P2_what_changes_right_after_save_is_saved_as_it_was(change: Callable[[Training], object]) -> None:
    training, store = Training(), MemoryStorage("store")
    with AsyncCheckpointer(store, **training.parts) as checkpointer:
        for step in (1, 2, 3, 4):  # each arena at least once more than it takes to plan it
            before = training.state()
            handle = checkpointer.save(step)
            change(training)
            handle.wait()
            found = asyncckpt.load(store).state
            for part in before:
                assert_same(found[part], before[part], part)


def assert_same(a: Any, b: Any, path: str) -> None:
    if isinstance(b, torch.Tensor | np.ndarray):
        assert a.dtype == b.dtype, path
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), path
    elif isinstance(b, dict):
        assert a.keys() == b.keys(), path
        for key in b:
            assert_same(a[key], b[key], f"{path}.{key}")
    else:
        assert type(a) is type(b), path
        assert a == b, path


def test_P2_unregistered_tensors_may_be_changed_right_after_save() -> None:
    model, store = Net(), MemoryStorage("store")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        for step in (1, 2, 3):
            before = model.linear.weight.detach().clone()
            handle = checkpointer.save(step)
            add_one(model)()
            handle.wait()
            assert torch.equal(asyncckpt.load(store).state["model"]["linear.weight"], before)


BY_HAND: dict[str, Callable[[nn.Parameter], object]] = {
    "in place": lambda weight: weight.data.add_(1),
    "other memory": lambda weight: setattr(weight, "data", torch.randn(4, 4)),
    "transposed": lambda weight: setattr(weight, "data", weight.data.t()),
    "loaded": lambda weight: weight.data.copy_(torch.randn(4, 4)),
}


@pytest.mark.parametrize("change", BY_HAND.values(), ids=list(BY_HAND))
def test_P2_tensors_may_be_changed_by_hand_after_before_mutation(change: Callable[[nn.Parameter], object]) -> None:
    model, store = Net(), MemoryStorage("store")
    optimizer = torch.optim.SGD(model.parameters())
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="always") as checkpointer:
        for step in (1, 2, 3):
            before = model.linear.weight.detach().clone()
            handle = checkpointer.save(step)
            checkpointer.before_mutation()
            change(model.linear.weight)
            handle.wait()
            assert torch.equal(asyncckpt.load(store).state["model"]["linear.weight"], before)


def test_P2_draws_after_save_are_not_in_it() -> None:
    store, model = MemoryStorage("store"), nn.Linear(1, 1)
    with AsyncCheckpointer(store, model=model) as checkpointer:
        handle = checkpointer.save(1)
        drawn = [random.random(), np.random.random(), torch.rand(1).item()]
        handle.wait()
        checkpointer.restore()
    assert [random.random(), np.random.random(), torch.rand(1).item()] == drawn


def test_P2_handed_out_tensors_that_share_memory_are_read_anew_at_every_save() -> None:
    store, box = MemoryStorage("store"), Box({})
    with AsyncCheckpointer(store, extra={"box": box}) as checkpointer:
        for step in range(1, 6):
            base = torch.full((10,), float(step))
            box.state = {
                "expanded": torch.full((1,), float(step)).expand(3),
                "head": base[:6],
                "tail": base[4:],
                "tied": (base[:2], base[:2]),
                "alone": torch.full((2,), float(step)),
            }
            checkpointer.save(step).wait()
            found = asyncckpt.load(store).state["extra"]["box"]
            values = {float(v) for t in (*found["tied"], found["head"], found["tail"], found["alone"]) for v in t}
            assert values | set(found["expanded"].tolist()) == {step}


# -- in the background -------------------------------------------------------------------------------------


class Events:
    """A listener that keeps what it was told, and by which thread."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, str]] = []

    def on_event(self, event: Event) -> None:
        self.events.append((event, threading.current_thread().name))

    def of(self, kind: type[Event]) -> list[tuple[Event, str]]:
        return [(event, thread) for event, thread in self.events if isinstance(event, kind)]


def test_P2_lazy_tensors_are_copied_by_another_thread_and_the_handle_says_when(gate: Gate) -> None:
    model, events = Net(), Events()
    optimizer = torch.optim.SGD(model.parameters())
    with AsyncCheckpointer(
        MemoryStorage("store"), model=model, optimizer=optimizer, verify="off", listeners=[events]
    ) as checkpointer:
        handle = checkpointer.save(1)
        gate.wait_entered()
        assert not handle.done()
        with pytest.raises(TimeoutError):
            handle.wait_staged(0)
        assert events.of(Staged) == []
        gate.open()
        handle.wait_staged()
        handle.wait()
    ((staged, thread),) = events.of(Staged)
    assert staged.step == 1
    assert thread == "asyncckpt-copy"


def test_what_is_staged_is_told_before_it_may_be_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or who keeps what he was told hears that a save is durable, and then that it is staged."""
    order, seal = list[str](), Watermark.seal

    class Notes:
        def on_event(self, event: Event) -> None:
            if isinstance(event, Staged | Durable):
                order.append(type(event).__name__)

    def sealed(mark: Watermark) -> None:
        order.append("sealed")
        seal(mark)

    monkeypatch.setattr(Watermark, "seal", sealed)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    with AsyncCheckpointer(
        MemoryStorage("store"), model=model, optimizer=optimizer, verify="off", listeners=[Notes()]
    ) as checkpointer:
        checkpointer.save(1).wait()
    assert order == ["Staged", "sealed", "Durable"]


def test_P2_a_step_that_waited_is_told_and_one_that_did_not_is_not() -> None:
    model, events = Net(), Events()
    optimizer = torch.optim.SGD(model.parameters())
    with AsyncCheckpointer(
        MemoryStorage("store"), model=model, optimizer=optimizer, verify="off", listeners=[events]
    ) as checkpointer:
        train(model, optimizer)
        assert events.of(Stalled) == []
        checkpointer.save(1)
        train(model, optimizer)
        train(model, optimizer)
    assert [event.where for event, _ in events.of(Stalled)] == ["call", "guard"]


def test_P2_a_large_tensor_is_copied_in_pieces_that_are_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "GROUP", 64)
    gate = Gate()
    monkeypatch.setattr(schedule, "copy_group", gate)
    gate.open()
    model = nn.ParameterDict(
        {
            "flat": torch.arange(1000.0),
            "odd": torch.arange(33, dtype=torch.float64),
            "strided": torch.arange(200.0).reshape(10, 20).t(),
            "small": torch.ones(1),
            "empty": torch.ones(0, 3),
        }
    )
    before = {name: value.detach().clone() for name, value in model.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    store = MemoryStorage("store")
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="always") as checkpointer:
        handle = checkpointer.save(1)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        handle.wait()
    assert gate.groups > 60
    found = asyncckpt.load(store).state["model"]
    assert all(torch.equal(found[name], value) for name, value in before.items())


def test_P2_a_copy_that_fails_fails_its_save_alone_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    copies, faults = schedule.copy_group, iter([True])

    def fail_once(destinations: Any, sources: Any) -> None:
        if threading.current_thread().name == "asyncckpt-copy" and next(faults, False):
            raise RuntimeError("no such page")
        copies(destinations, sources)

    monkeypatch.setattr(schedule, "copy_group", fail_once)
    model, store = Net(), MemoryStorage("store")
    optimizer = torch.optim.SGD(model.parameters())
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, generations=1) as checkpointer:
        handle = checkpointer.save(1)
        train(model, optimizer)
        with pytest.raises(SaveFailed, match="no such page"):
            handle.wait()
        for step in (2, 3):
            checkpointer.save(step).wait()
        assert [info.step for info in checkpointer.checkpoints()] == [2, 3]


def test_P2_a_forked_child_waits_for_no_copy_of_its_parent(gate: Gate, tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with AsyncCheckpointer(tmp_path, model=model, optimizer=optimizer) as checkpointer:
        handle = checkpointer.save(1)
        gate.wait_entered()
        child = os.fork()
        if child == 0:
            optimizer.step()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        gate.open()
        handle.wait()


def test_a_closed_checkpointer_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    model = Net()
    with AsyncCheckpointer(
        MemoryStorage("store"), model=model, optimizer=torch.optim.SGD(model.parameters())
    ) as checkpointer:
        checkpointer.save(1).wait()
        assert "asyncckpt-copy" in {thread.name for thread in threading.enumerate()}
    assert "asyncckpt-copy" not in {thread.name for thread in set(threading.enumerate()) - before}
