"""A periodic save that would hold training for longer than it may is given up; an explicit one is made all the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from prometheus_client import CollectorRegistry

import asyncckpt
from asyncckpt import AsyncCheckpointer, Budget, MetricsConfig, SavePolicy
from asyncckpt.errors import SaveSkipped
from asyncckpt.events import Failed, OverBudget, Skipped
from asyncckpt.staging.patience import Patience
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from ..checkpointer.trainings import Recorder
from .held import Gate, Net, train, waiting

EVERY_STEP = SavePolicy(every_steps=1)
ONE_MS = Budget(stall_ms=1)


class Watched:
    """A training, what it is told, and what is counted of it."""

    def __init__(self, root: Any, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = Net()
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        train(self.model, self.optimizer)
        self.recorder, self.registry = Recorder(), CollectorRegistry()
        options.setdefault("executor", "thread")
        self.checkpointer = AsyncCheckpointer(
            root,
            model=self.model,
            optimizer=self.optimizer,
            listeners=[self.recorder],
            metrics=MetricsConfig(port=None, registry=self.registry),
            **options,
        )

    def counted(self, name: str, **labels: str) -> float:
        found = self.registry.get_sample_value(name, labels)
        assert found is not None
        return found

    def over_budget(self) -> dict[str, float]:
        return {said: self.counted("asyncckpt_over_budget_total", outcome=said) for said in ("skipped", "held")}


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_P6_a_copy_that_is_not_over_in_time_is_given_up_and_training_goes_on(
    gate: Gate, executor: Literal["thread", "process"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    watched = Watched(tmp_path / "run", budget=ONE_MS, save=EVERY_STEP, executor=executor)
    with watched.checkpointer as checkpointer:
        handle = checkpointer.step(1)
        assert handle is not None
        gate.wait_entered()
        train(watched.model, watched.optimizer)  # returns, although nothing can be copied
        (told,) = (event for event in watched.recorder.of(OverBudget) if event.dropped)
        gate.open()
        with pytest.raises(SaveSkipped, match=r"step 1 was skipped: its copy was not complete within the 1 ms"):
            handle.wait(PATIENCE)
        assert handle.status == "skipped"
        assert (told.step, told.budget) == (1, 0.001)
        assert told.seconds >= 0.001
        expected = {name: tensor.clone() for name, tensor in watched.model.state_dict().items()}
        checkpointer.save(2).wait(PATIENCE)
        assert [info.step for info in checkpointer.checkpoints()] == [2]
    assert watched.over_budget()["skipped"] == 1
    assert watched.counted("asyncckpt_saves_total", outcome="skipped") == 1
    assert watched.counted("asyncckpt_saves_total", outcome="durable") == 1
    assert watched.counted("asyncckpt_saves_total", outcome="failed") == 0
    assert watched.recorder.of(Skipped)
    assert not watched.recorder.of(Failed)
    loaded = asyncckpt.load(tmp_path / "run").state["model"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert len(list((tmp_path / "run" / "data").iterdir())) == 1  # nothing is left of the one that was given up


def test_P6_an_explicit_save_is_made_whatever_it_takes(gate: Gate) -> None:
    store = MemoryStorage("explicit")
    watched = Watched(store, budget=ONE_MS)
    with watched.checkpointer as checkpointer:
        handle = checkpointer.save(1)
        gate.wait_entered()
        before = watched.model.linear.weight.detach().clone()
        with waiting(lambda: train(watched.model, watched.optimizer)):
            threading.Event().wait(0.002)  # longer than it may; no more is asked of the clock
            gate.open()
        assert handle.wait(PATIENCE).step == 1
    assert torch.equal(asyncckpt.load(store).state["model"]["linear.weight"], before)
    assert watched.over_budget() == {"skipped": 0, "held": 1}


def test_P6_memory_that_does_not_come_free_in_time_skips_the_save(tmp_path: Path) -> None:
    store = GatedStorage(MemoryStorage("busy"))
    watched = Watched(store, budget=ONE_MS, save=EVERY_STEP, on_busy="wait", generations=1)
    with watched.checkpointer as checkpointer, store.hold("put", "data/*") as gate:
        first = checkpointer.step(1)
        gate.wait_reached()
        second = checkpointer.step(2)
        gate.open()
        assert first is not None
        assert second is not None
        assert first.wait(PATIENCE).step == 1
        with pytest.raises(SaveSkipped, match=r"step 2 was skipped: no memory came free within the 1 ms"):
            second.wait(PATIENCE)
        assert [event.dropped for event in watched.recorder.of(OverBudget) if event.step == 2] == [True]  # told once
    assert watched.over_budget()["skipped"] == 1


def test_within_the_budget_nothing_is_given_up_and_nothing_said() -> None:
    watched = Watched(MemoryStorage("roomy"), budget=Budget(stall_ms=60_000), save=EVERY_STEP, on_busy="wait")
    with watched.checkpointer as checkpointer:
        for step in range(1, 6):
            handle = checkpointer.step(step)
            assert handle is not None
            train(watched.model, watched.optimizer)
        checkpointer.wait()
        assert [info.step for info in checkpointer.checkpoints()] == [1, 2, 3, 4, 5]
    assert watched.over_budget() == {"skipped": 0, "held": 0}


def test_comparing_takes_longer_than_copying_and_is_left_out_unless_asked_for() -> None:
    compared = []
    for verify in ("sample", "always"):
        watched = Watched(MemoryStorage(verify), budget=Budget(stall_ms=60_000), verify=verify)
        with watched.checkpointer as checkpointer:
            checkpointer.save(1)
            compared.append(checkpointer._saver.stager._pending[0].verifying)
            train(watched.model, watched.optimizer)
    assert compared == [False, True]


def test_a_wait_counts_and_what_is_left_is_never_less_than_nothing() -> None:
    patience = Patience(7, 5.0, gives_up=True)
    assert patience.left == 0.005
    assert not patience.wait(lambda seconds: False)
    patience.spent = 1.0
    assert patience.left == 0.0
    assert patience.is_over
    assert Patience(7, 5.0, gives_up=False, spent=1.0).left is None
