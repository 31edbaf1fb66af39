"""A periodic save that would hold training for longer than it may is given up; an explicit one is made all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from prometheus_client import CollectorRegistry

import asyncckpt
from asyncckpt import AsyncCheckpointer, Budget, MetricsConfig, SavePolicy
from asyncckpt.errors import SaveSkipped
from asyncckpt.events import Failed, OverBudget, Skipped
from asyncckpt.staging import schedule
from asyncckpt.staging.patience import Patience
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import PATIENCE, GatedStorage
from asyncckpt.worker.process.exchange import Exchange

from ..checkpointer.trainings import Recorder
from .held import Gate, Net, train, waiting

if TYPE_CHECKING:
    from asyncckpt.worker.process.link import Link

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


def test_P6_a_worker_that_starts_late_does_not_commit_what_was_given_up(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears of both at once: that the save was given up, and that its last bytes, changed by then, are copied."""
    begin, end, may_begin, has_ended = Exchange.begin, Snapshot._end, threading.Event(), threading.Event()

    def late(self: Exchange, link: Link) -> None:
        assert may_begin.wait(PATIENCE)
        begin(self, link)

    def told(self: Snapshot, staged: Callable[[], None] | None) -> None:
        end(self, staged)
        has_ended.set()

    monkeypatch.setattr(Exchange, "begin", late)
    monkeypatch.setattr(Snapshot, "_end", told)
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    watched = Watched(tmp_path / "run", budget=ONE_MS, save=EVERY_STEP, executor="process")
    with watched.checkpointer as checkpointer:
        handle = checkpointer.step(1)
        assert handle is not None
        gate.wait_entered()
        train(watched.model, watched.optimizer)
        gate.open()
        assert has_ended.wait(PATIENCE)
        may_begin.set()
        with pytest.raises(SaveSkipped, match=r"step 1 was skipped: its copy was not complete"):
            handle.wait(PATIENCE)
        with pytest.raises(SaveSkipped):
            handle.wait_staged(PATIENCE)
        assert checkpointer.checkpoints() == []


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


def test_what_the_call_itself_copies_is_made_and_told_on_the_handle_too(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = schedule.Schedule.copy_eager

    def slow(self: schedule.Schedule, tensors: Any) -> None:
        threading.Event().wait(0.05)  # what is forced; the clock is asked for no more than that
        eager(self, tensors)

    monkeypatch.setattr(schedule.Schedule, "copy_eager", slow)
    watched = Watched(MemoryStorage("eager"), budget=ONE_MS, save=EVERY_STEP)
    with watched.checkpointer as checkpointer:
        handle = checkpointer.step(1)
        assert handle is not None
        assert handle.wait(PATIENCE).step == 1
    assert handle.is_over_budget
    assert handle.held >= 0.05
    assert [event.dropped for event in watched.recorder.of(OverBudget)] == [False]
    assert watched.over_budget() == {"skipped": 0, "held": 1}


def test_a_comparison_holds_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Snapshot._compare

    def slow(self: Snapshot) -> None:
        threading.Event().wait(0.05)
        compare(self)

    monkeypatch.setattr(Snapshot, "_compare", slow)
    watched = Watched(MemoryStorage("held"), budget=Budget(stall_ms=40), verify="always")
    with watched.checkpointer as checkpointer:
        handle = checkpointer.save(1)
        train(watched.model, watched.optimizer)
        assert handle.held >= 0.05
        assert handle.is_over_budget
        assert handle.wait(PATIENCE).step == 1
    assert watched.over_budget() == {"skipped": 0, "held": 1}


def test_without_a_budget_it_is_told_for_how_long_a_save_held_training_and_none_is_over() -> None:
    watched = Watched(MemoryStorage("free"))
    with watched.checkpointer as checkpointer:
        handle = checkpointer.save(1)
        assert handle.held > 0
        train(watched.model, watched.optimizer)
        handle.wait(PATIENCE)
    assert not handle.is_over_budget


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
