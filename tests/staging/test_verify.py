"""Snapshots that were torn, since saved tensors changed past all guards, are found out and never committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, SaveHandle
from asyncckpt.errors import SaveFailed, TornSnapshot
from asyncckpt.events import Durable, Staged
from asyncckpt.saves import saving
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import PATIENCE

from ..checkpointer.trainings import Recorder
from .held import Net


class Training:
    """Steps whose gradients are all one, and changes of a weight that nobody was asked about."""

    def __init__(self, verify: Any, model: nn.Module | None = None, **options: Any) -> None:
        self.model = model or Net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=0.9)
        self.recorder = Recorder()
        self.checkpointer = AsyncCheckpointer(
            MemoryStorage("verified"),
            model=self.model,
            optimizer=self.optimizer,
            verify=verify,
            listeners=[self.recorder],
            **options,
        )

    def step(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def torn_save(self, step: int, *names: str) -> SaveHandle:
        """A save, between whose copies and the next step the tensors `names` change."""
        copied = len(self.recorder.of(Staged))
        handle = self.checkpointer.save(step)
        self.recorder.wait_for(Staged, copied + 1)
        for name in names:
            self.model.get_parameter(name).data.add_(1)
        self.step()
        return handle


@pytest.mark.parametrize("verify", ["sample", "always"])
def test_a_torn_snapshot_fails_its_handle_and_is_not_listed(verify: str) -> None:
    training = Training(verify)
    with training.checkpointer as checkpointer:
        handle = training.torn_save(1, "linear.weight")
        with pytest.raises(SaveFailed) as caught:
            handle.wait()
        torn = handle.error
        assert isinstance(torn, TornSnapshot)
        assert caught.value.__cause__ is torn
        assert torn.paths == ("model.linear.weight",)
        assert "model.linear.weight changed while being copied" in str(torn)
        assert "before_mutation()" in str(torn)
        assert checkpointer.checkpoints() == []
        assert checkpointer.save(2).wait().step == 2


def test_every_torn_tensor_is_named_and_no_other() -> None:
    training = Training("always", nn.ModuleList(nn.Linear(2, 2) for _ in range(5)))
    with training.checkpointer:
        few = training.torn_save(1, "0.weight", "3.bias")
        many = training.torn_save(2, *(f"{i}.{kind}" for i in range(4) for kind in ("weight", "bias")))
        for handle in (few, many):
            with pytest.raises(SaveFailed):
                handle.wait()
        assert few.error.paths == ("model.0.weight", "model.3.bias")
        assert len(many.error.paths) == 8
        assert "and 3 more" in str(many.error)


def test_off_compares_nothing() -> None:
    training = Training("off")
    with training.checkpointer as checkpointer:
        for step in (1, 2):
            training.torn_save(step, "linear.weight").wait()
        assert [info.step for info in checkpointer.checkpoints()] == [1, 2]


def test_a_sample_is_the_first_two_saves_and_each_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert saving.SAMPLE == 100
    monkeypatch.setattr(saving, "SAMPLE", 10)
    training = Training("sample")
    with training.checkpointer:
        handles = [training.torn_save(step, "linear.weight") for step in range(1, 22)]
        failed = []
        for handle in handles:
            try:
                handle.wait()
            except SaveFailed:
                failed.append(handle.step)
    assert failed == [1, 2, 10, 20]


def test_always_is_every_save() -> None:
    training = Training("always")
    with training.checkpointer:
        for step in range(1, 6):
            with pytest.raises(SaveFailed, match="torn"):
                training.torn_save(step, "linear.weight").wait()


def test_eager_tensors_may_change_at_once() -> None:
    training = Training("always")
    with training.checkpointer:
        for step in range(1, 4):
            handle = training.checkpointer.save(step)
            training.model(torch.randn(8, 4))
            training.step()
            handle.wait()


# -- bits, not numbers -------------------------------------------------------------------------------------

SPECIAL: dict[str, Callable[[], torch.Tensor]] = {
    "NaN": lambda: torch.tensor([float("nan"), float("inf"), -0.0]),
    "NaN with a payload": lambda: torch.tensor([0x7FC00123, -1], dtype=torch.int32).view(torch.float32),
    "bfloat16": lambda: torch.tensor([float("nan"), 1.0], dtype=torch.bfloat16),
    "complex64": lambda: torch.tensor([complex("nan")]),
    "complex128": lambda: torch.tensor([complex("nan"), 1j], dtype=torch.complex128),
    "conjugate": lambda: torch.tensor([complex("nan"), 1j]).conj(),
    "conjugate complex128": lambda: torch.tensor([complex("nan")], dtype=torch.complex128).conj(),
    "negated": lambda: torch.tensor([complex(0, float("nan")), 1j]).conj().imag,
    "strided": lambda: torch.full((6,), float("nan"))[::2],
    "empty": lambda: torch.empty(0),
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=list(SPECIAL))
def test_a_value_that_is_not_equal_to_itself_is_not_torn(make: Callable[[], torch.Tensor]) -> None:
    model = nn.ParameterDict({"special": nn.Parameter(make(), requires_grad=False)})
    optimizer = torch.optim.SGD(model.parameters())
    store = MemoryStorage("special")
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="always") as checkpointer:
        for step in (1, 2, 3):
            handle = checkpointer.save(step)
            optimizer.step()
            assert handle.wait().step == step
    found = asyncckpt.load(store).state["model"]["special"]
    assert torch.equal(torch.isnan(found), torch.isnan(model["special"]))


CHANGED: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
    "the sign of zero": (torch.tensor([0.0]), torch.tensor([-0.0])),
    "the kind of NaN": (
        torch.tensor([0x7FC00000], dtype=torch.int32).view(torch.float32),
        torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32),
    ),
    "one bit of complex128": (
        torch.tensor([1j], dtype=torch.complex128),
        torch.tensor([complex(0, 1 + 2**-52)], dtype=torch.complex128),
    ),
}


@pytest.mark.parametrize("values", CHANGED.values(), ids=list(CHANGED))
def test_one_bit_is_a_change(values: tuple[torch.Tensor, torch.Tensor]) -> None:
    before, after = values
    training = Training("always", nn.ParameterDict({"special": nn.Parameter(before.clone(), requires_grad=False)}))
    with training.checkpointer as checkpointer:
        handle = checkpointer.save(1)
        training.recorder.wait_for(Staged)
        training.model["special"].data.copy_(after)
        training.optimizer.step()
        with pytest.raises(SaveFailed, match=r"model\.special changed"):
            handle.wait()


# -- whoever waits does not wait for a step that it would have to make itself --------------------------------

WAITS: dict[str, Callable[[AsyncCheckpointer, SaveHandle], object]] = {
    "handle.wait": lambda checkpointer, handle: handle.wait(PATIENCE),
    "handle.wait_staged": lambda checkpointer, handle: (handle.wait_staged(PATIENCE), handle.wait(PATIENCE)),
    "await": lambda checkpointer, handle: asyncio.run(asyncio.wait_for(_awaited(handle), PATIENCE)),
    "wait": lambda checkpointer, handle: checkpointer.wait(PATIENCE),
    "close": lambda checkpointer, handle: checkpointer.close(PATIENCE),
    "resume": lambda checkpointer, handle: checkpointer.resume(),
    "from another thread": lambda checkpointer, handle: _in_a_thread(lambda: handle.wait(PATIENCE)),
}


async def _awaited(handle: SaveHandle) -> object:
    return await handle


def _in_a_thread(call: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(call).result(PATIENCE)


@pytest.mark.parametrize("wait", WAITS.values(), ids=list(WAITS))
def test_waiting_right_after_a_save_that_is_verified_ends(
    wait: Callable[[AsyncCheckpointer, SaveHandle], object],
) -> None:
    training = Training("always")
    with training.checkpointer as checkpointer:
        training.step()
        handle = checkpointer.save(1)
        wait(checkpointer, handle)
        assert handle.status == "durable"


def test_saves_without_a_step_between_them_end() -> None:
    training = Training("always", generations=1)
    with training.checkpointer as checkpointer:
        handles = [checkpointer.save(step) for step in (1, 2, 3, 4)]
        assert [handle.wait(PATIENCE).step for handle in handles] == [1, 2, 3, 4]


def test_where_nothing_is_lazy_a_save_waits_for_no_guard() -> None:
    recorder = Recorder()
    with AsyncCheckpointer(MemoryStorage("eager"), model=Net(), verify="always", listeners=[recorder]) as checkpointer:
        checkpointer.save(1)
        recorder.wait_for(Durable)


def test_a_save_that_is_verified_is_not_durable_before_its_guard() -> None:
    training = Training("always")
    with training.checkpointer as checkpointer:
        handle = checkpointer.save(1)
        training.recorder.wait_for(Staged)
        assert not handle.done()
        training.step()
        training.recorder.wait_for(Durable)


def test_a_torn_snapshot_frees_its_arena() -> None:
    training = Training("always", generations=1)
    with training.checkpointer as checkpointer:
        for step in range(1, 5):
            with pytest.raises(SaveFailed, match="torn"):
                training.torn_save(step, "linear.weight").wait(PATIENCE)
        assert checkpointer.save(5).wait(PATIENCE).step == 5
