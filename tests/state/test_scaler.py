"""A gradient scaler is saved without being asked, and restored from what it would have said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import IncompatibleState
from asyncckpt.state.stateful import component
from asyncckpt.storage import MemoryStorage


def scaler(**options: Any) -> GradScaler:
    return GradScaler("cpu", **{"init_scale": 8.0, "growth_interval": 2, **options})


def used(target: GradScaler) -> GradScaler:
    """After three steps, the second of which has made it grow."""
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for _ in range(3):
        target.scale(parameter.sum()).backward()
        target.step(optimizer)
        target.update()
    return target


class Asking(GradScaler):
    """One with a state of its own."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mine": 1}


@pytest.mark.parametrize("into", [scaler, lambda: used(scaler(init_scale=2.0))], ids=["fresh", "used"])
@pytest.mark.parametrize("of", [scaler, lambda: used(scaler())], ids=["not used", "used"])
def test_a_scaler_comes_back_as_it_was(of: Any, into: Any) -> None:
    saved, store = of(), MemoryStorage("scaler")
    with AsyncCheckpointer(store, scaler=saved) as checkpointer:
        checkpointer.save(1).wait()
    live = into()
    with AsyncCheckpointer(store, scaler=live) as checkpointer:
        checkpointer.resume()
    assert live.state_dict() == saved.state_dict()
    assert {type(value) for value in live.state_dict().values()} == {float, int}
    live.scale(torch.ones(1))
    assert live.state_dict() == saved.state_dict()


def test_it_is_not_asked_at_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, store = used(scaler()), MemoryStorage("scaler")
    wanted = saved.state_dict()
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: pytest.fail("the host waits for the device"))
    with AsyncCheckpointer(store, scaler=saved) as checkpointer:
        checkpointer.save(1).wait()
    monkeypatch.undo()
    found = asyncckpt.load(store).state["scaler"]
    assert found == {
        name: torch.tensor(wanted[name]) if torch.is_tensor(found[name]) else wanted[name] for name in wanted
    }


def test_what_an_earlier_version_saved_is_loaded() -> None:
    wanted = used(scaler()).state_dict()  # numbers alone
    live = scaler(init_scale=2.0)
    component(("scaler",), live).load(wanted, strict=True)
    assert live.state_dict() == wanted


def test_one_that_is_disabled_has_nothing_to_save() -> None:
    store = MemoryStorage("scaler")
    with AsyncCheckpointer(store, scaler=scaler(enabled=False)) as checkpointer:
        checkpointer.save(1).wait()
    assert asyncckpt.load(store).state["scaler"] == {}
    with (
        AsyncCheckpointer(store, scaler=scaler()) as checkpointer,
        pytest.raises(IncompatibleState, match="disabled instance"),
    ):
        checkpointer.resume()


def test_one_with_a_state_of_its_own_is_asked() -> None:
    store = MemoryStorage("scaler")
    with AsyncCheckpointer(store, scaler=used(Asking("cpu"))) as checkpointer:
        checkpointer.save(1).wait()
    assert asyncckpt.load(store).state["scaler"]["mine"] == 1
