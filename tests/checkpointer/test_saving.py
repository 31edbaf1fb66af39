"""Saving: what a training loop gets back, and what is then in the store."""

from __future__ import annotations

import logging
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, RetentionPolicy, SaveHandle, SavePolicy, load
from asyncckpt.errors import UnsupportedState
from asyncckpt.events import Durable, Pruned, Staged
from asyncckpt.testing.slow import GatedStorage
from tests.golden.make import Box

from .conftest import Make
from .trainings import Recorder, Toy, Training, steps

pytestmark = pytest.mark.executors


def test_a_save_holds_the_state_of_its_moment_whatever_happens_after(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    training.step()
    before = training.model.weight.detach().clone()
    with store.hold("put"):
        handle = ckpt.save(1)
        for _ in range(3):
            training.step()
    handle.wait()
    assert not torch.equal(training.model.weight, before)
    assert torch.equal(load(store).state["model"]["weight"], before)


def test_a_resumed_training_goes_on_bit_for_bit(make: Make, store: GatedStorage) -> None:
    def losses(training: Training, count: int) -> list[float]:
        found = []
        for _ in range(count):
            training.step()
            found.append(training.model(torch.randn(1, 16)).sum().item())
        return found

    whole = losses(Training(), 8)
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    first = losses(training, 4)
    ckpt.save(4).wait()
    losses(training, 2)
    ckpt.close()
    again = Training()
    torch.manual_seed(99)
    assert make(model=again.model, optimizer=again.optimizer).resume().step == 4
    assert first + losses(again, 4) == whole


@pytest.mark.parametrize(
    "parts", [{}, {"model": Toy()}, {"extra": {"empty": nn.Identity()}}], ids=["rng", "eager", "0"]
)
def test_a_state_without_anything_lazy_can_be_saved(make: Make, parts: dict[str, object]) -> None:
    ckpt = make(**parts)
    for step in (1, 2, 3):
        ckpt.save(step).wait()
    assert steps(ckpt) == [1, 2, 3]


def test_what_is_saved_says_so(make: Make, store: GatedStorage, recorder: Recorder) -> None:
    ckpt = make(model=Toy(), monitor=("loss", "min"))
    info = ckpt.save(7, epoch=2, metrics={"loss": 0.5, "steps": 3}).wait()
    assert (info.id, info.seq, info.step, info.epoch) == ("00000001", 1, 7, 2)
    assert info.metrics == {"loss": 0.5, "steps": 3.0}
    assert info.size == 8 * 8 * 4
    (listed,) = ckpt.checkpoints()
    assert (listed.step, listed.digest, listed.is_best) == (7, info.digest, True)
    assert ckpt.latest() == listed
    assert ckpt.restore().metrics == {"loss": 0.5, "steps": 3.0}
    assert [type(event) for event in recorder.events if isinstance(event, Staged | Durable)] == [Staged, Durable]


def test_numbers_of_numpy_and_torch_are_steps_and_metrics_too(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1), monitor=("loss", "min"))
    metrics = {"loss": torch.tensor([0.5], requires_grad=True), "accuracy": np.float32(0.25), "seen": np.int64(3)}
    info = ckpt.step(np.int64(4), epoch=np.int32(1), metrics=metrics).wait()
    assert (info.step, info.epoch) == (4, 1)
    assert info.metrics == {"loss": 0.5, "accuracy": 0.25, "seen": 3.0}
    assert ckpt.restore(4).step == 4


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -0.0, 10**300, True])
def test_every_number_is_a_metric(make: Make, loss: float) -> None:
    ckpt = make(model=Toy(), monitor=("loss", "min"))
    ckpt.save(1, metrics={"loss": loss}).wait()
    assert repr(ckpt.latest().metrics["loss"]) == repr(float(loss))


@pytest.mark.parametrize("value", ["0.5", None, [1.0], 1j, torch.ones(2), np.ones(2), torch.tensor(1j)], ids=repr)
def test_what_is_no_number_is_refused_by_name(make: Make, value: object) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1))
    for step, call in enumerate((ckpt.save, ckpt.step)):
        with pytest.raises(TypeError, match="'accuracy'"):
            call(step + 1, metrics={"accuracy": value})
    assert steps(ckpt) == []


@pytest.mark.parametrize("step", [-1, 1.5, "1"])
def test_what_is_no_count_of_steps_is_refused(make: Make, step: object) -> None:
    ckpt = make(model=Toy())
    with pytest.raises((ValueError, TypeError)):
        ckpt.save(step)
    assert steps(ckpt) == []


@pytest.mark.parametrize("number", [1.5, "1", torch.tensor(1.0)], ids=repr)
def test_what_is_no_whole_number_is_refused_by_name(make: Make, number: object) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=100, every_epochs=100))
    steps_ = (
        ckpt.save,
        ckpt.step,
        ckpt.midstep,
        lambda step: ckpt.record(step, {}),
        lambda s: ckpt.epoch_end(1, step=s),
    )
    epochs = (lambda epoch: ckpt.save(1, epoch=epoch), lambda epoch: ckpt.epoch_end(epoch, step=1))
    for name, calls in (("step", steps_), ("epoch", epochs)):
        for call in calls:
            with pytest.raises(TypeError, match=f"^{name}={re.escape(repr(number))}: give a whole number"):
                call(number)
    assert steps(ckpt) == []


def test_a_tensor_that_counts_steps_is_read_at_once(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1), on_busy="wait")
    step = torch.tensor(0)
    for _ in range(3):
        step += 1
        assert ckpt.step(step) is not None
        assert ckpt.step(step) is None
    ckpt.wait()
    assert steps(ckpt) == [1, 2, 3]


def test_any_thread_may_save(make: Make, store: GatedStorage) -> None:
    count = 24
    ckpt = make(model=Toy(), extra={"box": Box({"tensor": torch.ones(3)})}, generations=count)
    started, usual = threading.Barrier(count), sys.getswitchinterval()

    def save(step: int) -> SaveHandle:
        started.wait()
        return ckpt.save(step)

    with store.hold("put", "run.json"), ThreadPoolExecutor(count) as threads:
        sys.setswitchinterval(1e-6)
        try:
            handles = list(threads.map(save, range(1, count + 1)))
        finally:
            sys.setswitchinterval(usual)
        assert {handle.step for handle in ckpt._saver.handles} == set(range(1, count + 1))  # all are waited for
    ckpt.wait()
    assert [handle.wait().step for handle in handles] == list(range(1, count + 1))


def test_step_decides_once_per_step_number(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=2), on_busy="wait")
    handles = [ckpt.step(step) for step in (1, 1, 2, 2, 2, 3, 4)]
    assert [handle.step if handle else None for handle in handles] == [None, None, 2, None, None, None, 4]
    ckpt.wait()
    assert steps(ckpt) == [2, 4]


def test_an_explicit_save_counts_as_the_save_of_its_step(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1, every_epochs=1))
    ckpt.save(1)
    assert ckpt.step(1) is None
    assert ckpt.epoch_end(1) is None
    ckpt.wait()
    assert steps(ckpt) == [1]


def test_step_zero_is_saved_only_when_asked(make: Make) -> None:
    policy = SavePolicy(every_steps=1, every_seconds=1e-9, on_best=True)
    ckpt = make(model=Toy(), save=policy, monitor=("loss", "min"))
    assert ckpt.step(0, metrics={"loss": 0.0}) is None
    assert ckpt.save(0).wait().step == 0


def test_without_a_policy_step_never_saves_and_says_so_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ckpt = make(model=Toy())
    assert [ckpt.step(step) for step in range(100)] == [None] * 100
    assert ckpt.epoch_end(1, step=99) is None
    said = [record for record in caplog.records if "will not save by itself" in record.getMessage()]
    assert len(said) == 1


def test_the_first_save_says_what_is_copied_in_the_call(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    ckpt.save(2).wait()
    (line,) = [r.getMessage() for r in caplog.records if "(EAGER)" in r.getMessage()]
    assert "model.weight" in line


@pytest.mark.executors("thread")
def test_a_loader_without_state_is_refused_at_construction(store: GatedStorage) -> None:
    with pytest.raises(TypeError, match=r"dataloader.*torchdata\.stateful_dataloader\.StatefulDataLoader"):
        AsyncCheckpointer(store, dataloader=[1, 2, 3].__iter__())


def test_parts_that_grow_between_saves_are_saved_as_they_are(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    ckpt.save(1).wait()
    training.step()
    ckpt.save(2).wait()
    assert load(store, 1).state["optimizer"]["state"] == {}
    assert set(load(store, 2).state["optimizer"]["state"]) == {0, 1}


def test_a_state_that_cannot_be_held_leaves_later_saves_alone(make: Make) -> None:
    class Counter:
        value: object = 1

        def state_dict(self) -> dict[str, object]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, object]) -> None:
            self.value = state["value"]

    counter = Counter()
    ckpt = make(extra={"counter": counter})
    counter.value = object()
    with pytest.raises(UnsupportedState, match=r"extra\.counter\.value"):
        ckpt.save(1)
    counter.value = 2
    assert ckpt.save(2).wait().step == 2
    counter.value = 3
    ckpt.restore(2)
    assert counter.value == 2


# -- retention ---------------------------------------------------------------------------------------------


def test_every_rule_keeps_its_own_and_the_best_survives_a_restart(
    make: Make, tmp_path: Path, recorder: Recorder
) -> None:
    root, toy = tmp_path / "run", Toy()
    options = {"keep": RetentionPolicy(last=2, best=2, every_epochs=4), "monitor": ("loss", "min")}
    losses = {1: 0.1, 2: 0.9, 3: 0.15, 4: 0.8, 5: 0.7, 6: 0.6, 7: float("nan"), 8: 0.9, 9: 0.9, 10: 0.5}
    for part in (range(1, 6), range(6, 11)):
        ckpt = make(root, model=toy, **options)
        ckpt.resume()
        for epoch in part:
            toy.value = epoch
            ckpt.save(epoch * 10, epoch=epoch, metrics={"loss": losses[epoch]}).wait()
        ckpt.close()
    ckpt = make(root, model=toy, **options)
    assert [info.epoch for info in ckpt.checkpoints()] == [1, 3, 4, 8, 9, 10]
    assert [info.epoch for info in ckpt.checkpoints() if info.is_best] == [1]
    assert sorted(int(path.name.split("-")[2]) for path in root.glob("data/*")) == [10, 30, 40, 80, 90, 100]
    assert {event.reason for event in recorder.of(Pruned)} == {"no rule keeps it: last 2, best 2, every 4 epochs"}


def test_the_last_n_are_listed_and_nothing_else_is_left_on_disk(make: Make, tmp_path: Path, recorder: Recorder) -> None:
    root = tmp_path / "run"
    toy = Toy()
    ckpt = make(root, model=toy, keep=RetentionPolicy(last=3))
    for step in range(1, 8):
        toy.value = step
        ckpt.save(step).wait()
        assert steps(ckpt) == list(range(max(1, step - 2), step + 1))
    ckpt.close()
    assert [int(path.name.split("-")[2]) for path in sorted(root.glob("data/*"))] == [5, 6, 7]
    assert [event.step for event in recorder.of(Pruned)] == [1, 2, 3, 4]
    assert {event.reason for event in recorder.of(Pruned)} == {"no rule keeps it: last 3"}
    records = len(list(root.glob("commits/*.json")))
    assert records <= 4, "three checkpoints, and the record of the end"


def test_without_a_policy_everything_stays(make: Make) -> None:
    ckpt = make(model=Toy())
    for step in range(1, 8):
        ckpt.save(step).wait()
    ckpt.close()
    assert steps(make(model=Toy())) == list(range(1, 8))


def test_a_step_saved_twice_is_listed_once_as_the_later(make: Make, tmp_path: Path, recorder: Recorder) -> None:
    toy = Toy(1)
    root = tmp_path / "run"
    ckpt = make(root, model=toy)
    ckpt.save(5).wait()
    toy.value = 2
    second = ckpt.save(5).wait()
    assert [info.seq for info in ckpt.checkpoints()] == [second.seq] == [2]
    assert recorder.wait_for(Pruned)[0].reason == "replaced by a later save of its step"
    ckpt.close()
    assert len(list(root.glob("data/*"))) == 1
    assert load(root, 5).state["model"]["weight"].unique().tolist() == [2]


def test_links_for_people_lead_to_the_latest_and_the_best(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "run"
    ckpt = make(root, model=Toy(), monitor=("loss", "min"))
    for step, loss in ((1, 0.5), (2, 0.25), (3, 0.75)):
        ckpt.save(step, metrics={"loss": loss})
    ckpt.close()
    assert "-step-3-" in (root / "checkpoints/latest").resolve().name
    assert "-step-2-" in (root / "checkpoints/best").resolve().name
    assert (root / "checkpoints/best/manifest.json").exists()
