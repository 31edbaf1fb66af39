"""Every form a tensor can have on a device, and models of which a part lies in host memory."""

from __future__ import annotations

import _thread
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, guarded
from asyncckpt.staging import device as copies
from asyncckpt.staging import lane, pieces
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.testing import simacc

from .declaring import Declaring
from .trainings import DEVICE, differing, side, tensors


def forms() -> dict[str, Tensor]:
    base = torch.arange(4096, dtype=torch.float32).reshape(64, 64)
    kinds = {
        str(dtype).removeprefix("torch."): base[:4].to(dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
    }
    return {f"as {name}": tensor for name, tensor in kinds.items()} | {
        "float8": base[:4].to(torch.float8_e4m3fn),
        "complex64": torch.complex(base, -base),
        "complex128": torch.complex(base.double(), -base.double()),
        "strided": base[:, ::2],
        "transposed": base.t(),
        "channels_last": torch.arange(480.0).reshape(2, 3, 8, 10).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "big": torch.arange(400_000, dtype=torch.float32),
    }


def on_device() -> dict[str, Tensor]:
    found = {name: tensor.to(DEVICE) for name, tensor in forms().items()}
    whole = torch.arange(64.0, device=DEVICE)
    return found | {
        "conjugated": found["complex64"].conj(),
        "view": whole[8:24],
        "overlapping": whole[16:40],
        "tied": found["big"],
    }


@pytest.mark.parametrize("lazy", [False, True], ids=["EAGER", "LAZY"])
@pytest.mark.parametrize("sizes", [(32 << 20, 1 << 20), (4096, 1024)], ids=["whole", "in pieces"])
def test_T10_every_form_comes_back_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, lazy: bool, sizes: tuple[int, int]
) -> None:
    monkeypatch.setattr(pieces, "GROUP", sizes[0])
    monkeypatch.setattr(lane, "STRAIGHT", sizes[1])
    live = on_device()
    model = nn.ParameterDict({k: nn.Parameter(t, requires_grad=False) for k, t in live.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    store = Declaring("forms")
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer} if lazy else {"model": model}
    wanted = tensors(dict(model.items()))
    with AsyncCheckpointer(store, **parts, verify="always") as checkpointer:
        for step in (1, 2, 3):
            before = simacc.stats().get("d2h_pinned_bytes", 0)
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                optimizer.step()
            handle.wait()
            assert differing(tensors(asyncckpt.load(store).state["model"]), wanted) == []
            # Each byte of memory once, tied tensors and views or not. A comparison sends its answer another way.
            assert simacc.stats()["d2h_pinned_bytes"] - before == bytes_once(live)


def bytes_once(live: dict[str, Tensor]) -> int:
    """Bytes of `live`, of those in common memory once; a conjugated view is copied by its value, apart."""
    shared = {"conjugated": 0, "tied": 0, "view": 0, "overlapping": 0}
    apart = sum(tensor.nbytes for name, tensor in live.items() if name not in shared)
    return apart + live["conjugated"].nbytes + 32 * live["view"].itemsize  # elements 8 to 40


def test_T10_host_and_device_side_by_side() -> None:
    torch.manual_seed(0)
    there, here = nn.Linear(64, 64).to(DEVICE), nn.Linear(64, 64)
    optimizer = torch.optim.SGD([*there.parameters(), *here.parameters()], lr=0.1, momentum=0.9)
    store = Declaring("mixed")

    def step() -> None:
        x = torch.randn(4, 64)
        (there(x.to(DEVICE)).sum().cpu() + here(x).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with AsyncCheckpointer(store, model=[there, here], optimizer=optimizer, verify="always") as checkpointer:
        for at in range(1, 5):
            wanted = tensors([there.state_dict(), here.state_dict()])
            handle = checkpointer.save(at)
            step()
            handle.wait()
            assert differing(tensors(asyncckpt.load(store).state["model"]), wanted) == []


@pytest.mark.parametrize("poison", [1, 2])
@pytest.mark.parametrize("how", ["gathered", "in order", "guarded"])
def test_T7_what_is_handed_out_is_there_until_it_is_copied(
    how: str, poison: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    simacc.configure(poison=poison)
    monkeypatch.setattr(lane, "SCRATCH", 0 if how == "in order" else 1 << 20)
    store, handed = Declaring("handed"), Handed()
    model = nn.Linear(256, 256).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    extra = {"handed": guarded(handed) if how == "guarded" else handed}
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, extra=extra, verify="off") as checkpointer:
        for step in (1, 2, 3):
            handed.value += 1
            wanted = tensors({"model": model.state_dict(), "handed": handed.state_dict()})
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                checkpointer._saver.stager._pending[-1].enqueued.wait()
                # Before the step: what comes after it comes after the copies too.
                filled = [torch.full((256, 256), 7.0, device=DEVICE, dtype=kind) for kind in Handed.kinds * 4]
                model.weight.grad = torch.ones_like(model.weight)
                optimizer.step()
            handle.wait()
            found = asyncckpt.load(store).state
            assert differing(tensors({"model": found["model"], "handed": found["extra"]["handed"]}), wanted) == []
            del filled


@pytest.mark.parametrize("poison", [1, 2])
def test_T7_what_is_handed_out_is_let_go_by_who_knows_that_it_was_compared(
    poison: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is over before the thread that asked for it has forgotten what it compares."""
    training, let_go = threading.get_ident(), Snapshot._let_go

    def let_go_once_judged(self: Snapshot) -> None:
        if threading.get_ident() == training:
            judged = _thread.allocate_lock()  # not `threading`'s, which would tell the race detector
            judged.acquire()
            self._later(judged.release)
            judged.acquire()
        let_go(self)

    simacc.configure(poison=poison)
    monkeypatch.setattr(Snapshot, "_let_go", let_go_once_judged)
    store, handed = Declaring("compared"), Handed()
    with AsyncCheckpointer(store, extra={"handed": guarded(handed)}, verify="always") as checkpointer:
        for step in (1, 2, 3):
            handed.value += 1
            wanted = tensors(handed.state_dict())
            handle = checkpointer.save(step)
            checkpointer._saver.stager._pending[-1].copied.wait()
            checkpointer.before_mutation()
            handle.wait()
            assert differing(tensors(asyncckpt.load(store).state["extra"]["handed"]), wanted) == []


class Handed:
    """Makes its tensors anew for each ``state_dict()``."""

    kinds = (torch.bfloat16, torch.float32)

    def __init__(self) -> None:
        self.value = torch.arange(65_536, dtype=torch.float32, device=DEVICE).reshape(256, 256)

    def state_dict(self) -> dict[str, Any]:
        return {"half": (self.value / 2).to(torch.bfloat16), "transposed": (self.value + 1).t()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("poison", [1, 2])
@pytest.mark.parametrize("straight", [1 << 20, 1], ids=["gathered", "straight"])
def test_T7_memory_that_a_parameter_has_given_up_is_there_until_it_is_copied(
    straight: int, poison: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    simacc.configure(poison=poison)
    monkeypatch.setattr(lane, "STRAIGHT", straight)
    store, model = Declaring("given up"), nn.Linear(256, 256).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="off") as checkpointer:
        for step in (1, 2, 3):
            wanted = tensors(model.state_dict())
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                checkpointer._saver.stager._pending[-1].enqueued.wait()
                for parameter in model.parameters():
                    parameter.data = torch.full_like(parameter, step)
                filled = [torch.full((256, 256), 7.0, device=DEVICE) for _ in range(8)]
            handle.wait()
            assert differing(tensors(asyncckpt.load(store).state["model"]), wanted) == []
            del filled


def test_copies_of_bits_are_compared_as_bits() -> None:
    """What the tests above compare with is not what is tested."""
    one = torch.tensor([float("nan"), -0.0])
    assert copies.same_bits(one, one.clone())
    assert not copies.same_bits(one, torch.tensor([float("nan"), 0.0]))
