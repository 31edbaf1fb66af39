"""A snapshot on a device is the state at the call: copies come after what was enqueued, changes after the copies."""

from __future__ import annotations

import _thread
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    FakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torch.optim.swa_utils import AveragedModel

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.staging import lane
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.testing import simacc

from .declaring import Declaring
from .trainings import DEVICE, Training, differing, side, tensors

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    f"{kind.__name__} {way or 'plain'}": (kind, more | ({way: True} if way else {"foreach": False}))
    for kind, more, ways in [
        (torch.optim.SGD, {"momentum": 0.9}, ["", "foreach"]),  # fused ones have no kernel for the simulated device
        (torch.optim.Adam, {}, ["", "foreach", "fused", "capturable"]),
        (torch.optim.AdamW, {}, ["", "foreach", "fused", "capturable"]),
        (torch.optim.Adagrad, {}, ["", "foreach"]),
    ]
    for way in ways
}


def test_T1_copies_wait_for_what_the_training_stream_still_has_to_do() -> None:
    training = Training()
    with training.checkpointer(verify="off") as checkpointer:
        checkpointer.save(1).wait()
        with simacc.hold(torch.accelerator.current_stream()):
            training.step()
            handle = checkpointer.save(2)
        wanted = training.state()
        handle.wait()
    assert differing(training.saved(), wanted) == []


def test_T1_a_training_may_be_on_a_stream_of_its_own() -> None:
    training = Training(torch.optim.SGD, momentum=0.9)
    simacc.configure(kernel_latency=0.0005)
    stream = torch.Stream(device=DEVICE)
    stream.wait_stream(torch.accelerator.current_stream())
    with stream, training.checkpointer(verify="off") as checkpointer:
        for step in range(1, 5):
            training.step()
            clones = {f".model.{name}": tensor.clone() for name, tensor in training.model.state_dict().items()}
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                training.forward_backward()
                training.optimizer.step()
            wanted = {name: tensor.cpu() for name, tensor in clones.items()}
            handle.wait()
            saved = training.saved()
            assert differing({name: saved[name] for name in wanted}, wanted) == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_T2_a_step_waits_for_the_copies_on_the_device_and_the_host_goes_on(name: str) -> None:
    kind, options = OPTIMIZERS[name]
    training = Training(kind, **options)
    with training.checkpointer(verify="off") as checkpointer:
        for step in (1, 2, 3):
            wanted = training.state()
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                training.step()
                assert not torch.accelerator.current_stream().query()
                assert not handle.done()
            handle.wait()
            assert differing(training.saved(), wanted) == []
            assert differing(training.state(), wanted) != []


def test_T3_a_step_on_another_stream_waits_too() -> None:
    training = Training()
    other = torch.Stream(device=DEVICE)
    with training.checkpointer(verify="off") as checkpointer:
        checkpointer.save(1).wait()
        wanted = training.state()
        with simacc.hold(side()):
            handle = checkpointer.save(2)
            training.forward_backward()
            other.wait_stream(torch.accelerator.current_stream())
            with other:
                training.optimizer.step()
        torch.accelerator.current_stream().wait_stream(other)
        handle.wait()
    assert differing(training.saved(), wanted) == []


def test_T3_each_of_two_optimizers_waits_on_the_stream_that_it_steps_on() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)).to(DEVICE)
    first, second = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.AdamW(model[1].parameters(), lr=0.1)
    store, other = Declaring("two"), torch.Stream(device=DEVICE)
    model(torch.randn(4, 8, device=DEVICE)).sum().backward()
    with AsyncCheckpointer(store, model=model, optimizer=[first, second], verify="off") as checkpointer:
        for step in (1, 2, 3):
            wanted = tensors(model.state_dict())
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                model(torch.randn(4, 8, device=DEVICE)).sum().backward()
                other.wait_stream(torch.accelerator.current_stream())
                first.step()
                with other:  # behind the backward pass, and not behind the other step
                    second.step()
                assert not handle.done()
            torch.accelerator.current_stream().wait_stream(other)
            handle.wait()
            assert differing(tensors(asyncckpt.load(store).state["model"]), wanted) == []


def test_T3_a_step_with_a_closure_waits() -> None:
    training = Training(torch.optim.SGD, momentum=0.9)

    def closure() -> torch.Tensor:
        training.optimizer.zero_grad()
        return training.forward_backward()

    with training.checkpointer(verify="off") as checkpointer:
        for step in (1, 2, 3):
            wanted = training.state()
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                training.optimizer.step(closure)
                assert not torch.accelerator.current_stream().query()
            handle.wait()
            assert differing(training.saved(), wanted) == []
            assert differing(training.state(), wanted) != []


def test_T3_optimizers_that_step_inside_the_backward_pass_wait() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)).to(DEVICE)
    inner = {p: torch.optim.AdamW([p], lr=0.1) for p in model.parameters()}
    for parameter, optimizer in inner.items():

        def update(p: torch.Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(update)
    store = Declaring("inner")
    model(torch.randn(4, 8, device=DEVICE)).sum().backward()
    with AsyncCheckpointer(store, model=model, optimizer=list(inner.values()), verify="off") as checkpointer:
        for step in (1, 2):
            wanted = tensors(model.state_dict())
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                model(torch.randn(4, 8, device=DEVICE)).sum().backward()
            handle.wait()
            assert differing(tensors(asyncckpt.load(store).state["model"]), wanted) == []


def test_T3_accumulation_and_a_scaler() -> None:
    training = Training(torch.optim.SGD)
    scaler = torch.amp.GradScaler("sim", init_scale=8.0)
    with training.checkpointer(verify="off", scaler=scaler) as checkpointer:
        for step in (1, 2):
            wanted = training.state()
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                for _ in range(4):
                    scaler.scale(training.model(torch.randn(8, 16, device=DEVICE)).square().mean()).backward()
                # torch reads here whether a gradient overflowed: the host waits for training, which waits for nobody.
            scaler.step(training.optimizer)
            scaler.update()
            handle.wait()
            saved = {name: t for name, t in training.saved().items() if not name.startswith(".scaler")}
            # What the forward passes change was saved as it was before them.
            assert differing(saved, wanted) == []


def test_T3_tensors_may_be_changed_by_hand_after_before_mutation() -> None:
    training = Training()
    with training.checkpointer(verify="off") as checkpointer:
        for step in (1, 2):
            wanted = training.state()
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                checkpointer.before_mutation()
                training.model.first.weight.data.add_(1)
            handle.wait()
            assert differing(training.saved(), wanted) == []


def test_T3_a_step_comes_after_a_comparison_that_was_over_before_it_was_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare = Snapshot._compare

    def compare_and_judge(self: Snapshot) -> None:
        compare(self)
        judged = _thread.allocate_lock()  # not `threading`'s, which would tell the race detector what is to be told it
        judged.acquire()
        self._later(judged.release)
        judged.acquire()

    monkeypatch.setattr(Snapshot, "_compare", compare_and_judge)
    training = Training()
    with training.checkpointer(verify="always") as checkpointer:
        for step in (1, 2):
            wanted = training.state()
            handle = checkpointer.save(step)
            training.step()
            handle.wait()
            assert differing(training.saved(), wanted) == []


@pytest.mark.parametrize("scratch", [1 << 20, 0], ids=["gathered", "in order"])
def test_T4_what_the_forward_pass_changes_is_saved_as_it_was(scratch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "SCRATCH", scratch)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(16, 8)), nn.BatchNorm1d(8), nn.Linear(8, 4)
    ).to(DEVICE)
    average = AveragedModel(model)
    by_hand = [p.detach().clone() for p in model.parameters()]
    rate = torch.tensor(0.1, device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, foreach=True, capturable=True)
    store = Declaring("eager")
    extra = {"average": average, "by hand": _Handed(by_hand)}

    def live() -> dict[str, torch.Tensor]:
        parts = {"model": model, "optimizer": optimizer, "extra": extra}
        return tensors(
            {
                "model": parts["model"].state_dict(),
                "optimizer": optimizer.state_dict(),
                "extra": {name: part.state_dict() for name, part in extra.items()},
            }
        )

    with AsyncCheckpointer(store, model=model, optimizer=optimizer, extra=extra, verify="off") as checkpointer:
        for step in (1, 2, 3):
            wanted = live()
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                model(torch.randn(8, 16, device=DEVICE)).sum().backward()
                torch._foreach_add_(by_hand, 1)
                rate.add_(1)
                optimizer.step()
            average.update_parameters(model)  # reads a number on the host: not while the device stands still
            handle.wait()
            found = asyncckpt.load(store).state
            assert differing(tensors({k: v for k, v in found.items() if k != "rng"}), wanted) == []


class Quantized(nn.Module):
    """All that a forward pass changes beside what batch normalisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8, max_norm=0.1)
        self.observed = MovingAverageMinMaxObserver()
        self.channels = MovingAveragePerChannelMinMaxObserver()
        self.last = nn.Linear(8, 4)

    def forward(self, rows: torch.Tensor, scale: float) -> torch.Tensor:
        found: torch.Tensor = self.last(self.channels(self.observed(self.table(rows) * scale)))
        return found


@pytest.mark.parametrize("scratch", [1 << 20, 0], ids=["gathered", "in order"])
def test_T4_observers_and_a_table_that_is_renormalised_are_saved_as_they_were(
    scratch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "SCRATCH", scratch)
    torch.manual_seed(0)
    model, fake, store = Quantized().to(DEVICE), FakeQuantize().to(DEVICE), Declaring("observed")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def forward_backward(scale: float) -> None:
        fake(model(torch.randint(10, (6,)).to(DEVICE), scale)).sum().backward()

    forward_backward(1)
    # These read numbers on the host. Copied in order, they stand still until the copies are made.
    stop = (lambda: simacc.hold(side())) if scratch else (lambda: simacc.configured(copy_latency=0.01))
    both = {"model": model, "fake": fake}
    with AsyncCheckpointer(store, model=both, optimizer=optimizer, verify="off") as checkpointer:
        for step in (1, 2, 3):
            wanted = tensors({name: part.state_dict() for name, part in both.items()})
            with stop():
                handle = checkpointer.save(step)
                forward_backward(1 + step)
                optimizer.step()
            with torch.no_grad():
                model.table.weight.mul_(3)  # so that the next pass has rows to renormalise
            handle.wait()
            assert differing(tensors(asyncckpt.load(store).state["model"]), wanted) == []
            changed = set(differing(tensors({name: part.state_dict() for name, part in both.items()}), wanted))
            assert {f".model.{name}" for name in ("table.weight", "observed.max_val", "channels.max_val")} <= changed
            assert ".fake.scale" in changed


class _Handed:
    """Hands its tensors out, as a ``state_dict()`` that makes them anew."""

    def __init__(self, values: list[torch.Tensor]) -> None:
        self.values = values

    def state_dict(self) -> dict[str, Any]:
        return {"doubled": [value * 2 for value in self.values]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError
