"""The worker process is killed: no save is lost, none is made twice, and training does not notice."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer, MetricsConfig, RetentionPolicy, SavePolicy
from asyncckpt.errors import CheckpointDirectoryExistsError, Fenced, SaveFailed, WorkerCrashed
from asyncckpt.events import Durable, Failed, Fallback
from asyncckpt.testing.shared import SharedGates
from asyncckpt.worker.process import succession

from ..checkpointer.trainings import Elsewhere, Recorder, Toy, Training, steps, worker_of
from .conftest import Make

pytestmark = pytest.mark.kills


def kill(ckpt: AsyncCheckpointer) -> None:
    with suppress(ProcessLookupError):  # it has died of the kill before, and was reaped right now
        os.kill(worker_of(ckpt), signal.SIGKILL)


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may die as often as it likes."""
    monkeypatch.setattr(succession, "DEATHS", 1000)


@pytest.mark.parametrize(
    ("request_", "pattern"),
    [
        ("probe", ""),
        ("put", "run.json"),
        ("put", "data/*.safetensors"),
        ("reply", "data/*.safetensors"),
        ("put", "data/*/manifest.json"),
        ("put", "commits/*2.json"),
        ("reply", "commits/*2.json"),
        ("put", "latest"),
    ],
)
def test_P5_a_worker_that_dies_at_any_request_is_replaced_and_the_save_is_made_once(
    make: Make, store: SharedGates, recorder: Recorder, request_: str, pattern: str
) -> None:
    toy = Toy()
    ckpt = make(model=toy)
    gate = store.hold(request_, pattern)
    toy.value = 1
    first = ckpt.save(1)
    toy.value = 2
    second = ckpt.save(2)
    gate.wait_reached()
    kill(ckpt)
    gate.open()
    assert [first.wait(60).step, second.wait(60).step] == [1, 2]
    assert [first.wait().seq, second.wait().seq] == [1, 2]
    ckpt.wait()
    assert steps(ckpt) == [1, 2]
    assert [event.step for event in recorder.of(Durable)] == [1, 2]
    assert recorder.of(Failed) == []
    for step in (1, 2):
        ckpt.restore(step)
        assert toy.value == step


@pytest.mark.usefixtures("stubborn")
def test_P5_fifty_deaths_at_random_moments_cost_nothing(make: Make, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    toy = Toy()
    root = tmp_path / "run"
    ckpt = make(root, model=toy, keep=RetentionPolicy(last=3))
    for step in range(1, 51):
        toy.value = step
        handle = ckpt.save(step)
        handle.wait_staged() if moments.random() < 0.5 else None
        for _ in range(moments.randrange(3)):
            ckpt.latest()  # some time, that is a few milliseconds
        kill(ckpt)
        if moments.random() < 0.5:
            assert handle.wait(60).step == step
    ckpt.wait()
    assert steps(ckpt) == [48, 49, 50]
    ckpt.close()
    with AsyncCheckpointer(root, model=toy) as reader:
        for step in (48, 49, 50):
            reader.restore(step)
            assert toy.value == step


def test_P5_the_third_death_within_a_minute_ends_in_a_thread_visibly(
    make: Make, store: SharedGates, recorder: Recorder
) -> None:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    toy = Toy()
    ckpt = make(model=toy, metrics=MetricsConfig(port=None, registry=registry), overwrite=True)
    ckpt.save(1).wait()
    gate = store.hold("put", "data/*")
    handle = ckpt.save(2)
    for deaths in range(1, 4):
        gate.wait_reached(deaths)
        kill(ckpt)
    with pytest.raises(SaveFailed, match="3 deaths within 60 s") as raised:
        handle.wait(60)
    assert isinstance(raised.value.__cause__, WorkerCrashed)
    gate.open()
    assert [event.phase for event in recorder.wait_for(Failed)] == ["worker"]
    (fallback,) = [event for event in recorder.of(Fallback) if event.feature == "executor"]
    assert "was killed by signal 9" in fallback.reason
    assert registry.get_sample_value("asyncckpt_fallback", {"feature": "executor"}) == 1
    toy.value = 3
    assert ckpt.save(3).wait(60).step == 3  # it knows that what is there was saved by this training
    assert ckpt.prune(dry_run=True).removed == ()
    assert ckpt.resume().step == 3
    ckpt.wait()
    assert steps(ckpt) == [1, 3]


def test_P5_a_run_that_somebody_else_has_taken_meanwhile_is_not_taken_back(make: Make, store: SharedGates) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    ckpt.wait()
    gate = store.hold("put", "data/*")
    late = ckpt.save(2)
    gate.wait_reached()
    other = make(Elsewhere(store.inner), model=Toy(), executor="thread")
    other.resume()
    kill(ckpt)
    gate.open()
    with pytest.raises(SaveFailed, match="was taken by incarnation 2") as raised:
        late.wait(60)
    assert isinstance(raised.value.__cause__, Fenced)
    assert other.save(3).wait().step == 3


def test_P5_a_new_worker_knows_what_was_resumed_and_what_was_saved_by_this_training(
    make: Make, store: SharedGates
) -> None:
    with AsyncCheckpointer(store, model=Toy(), executor="thread") as earlier:
        earlier.save(1).wait()
    unresumed = make(model=Toy())
    with pytest.raises(CheckpointDirectoryExistsError):
        unresumed.save(2)
    unresumed.close()
    ckpt = make(model=Toy())
    assert ckpt.resume().step == 1
    kill(ckpt)
    assert ckpt.save(2).wait(60).step == 2
    kill(ckpt)
    assert ckpt.save(3).wait(60).step == 3
    assert steps(ckpt) == [1, 2, 3]


def test_P5_a_stopped_worker_holds_neither_steps_nor_saves(make: Make, store: SharedGates, recorder: Recorder) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_steps=1))
    ckpt.step(1).wait()
    worker = worker_of(ckpt)
    os.kill(worker, signal.SIGSTOP)
    try:
        for step in range(2, 2000):  # far more words than the socket takes
            training.step()
            ckpt.step(step)
        assert ckpt._executor._exchange.link.channel.is_waiting, "the socket took it all: this showed nothing"
        assert steps(ckpt) == [1]
    finally:
        os.kill(worker, signal.SIGCONT)
    ckpt.wait(60)
    assert steps(ckpt)[-1] == 1999


def test_P5_a_question_under_way_says_that_the_worker_died(make: Make, store: SharedGates) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ckpt = make(model=Toy(), keep=RetentionPolicy(last=1))
    ckpt.save(1).wait()
    ckpt.wait()
    gate = store.hold("list", "user/*")
    with ThreadPoolExecutor(1) as thread:
        pruning = thread.submit(ckpt.prune, dry_run=True)
        gate.wait_reached()
        kill(ckpt)
        with pytest.raises(WorkerCrashed, match=r"ended during the call.*killed by signal 9"):
            pruning.result(60)
    gate.open()
    assert ckpt.prune(dry_run=True).removed == ()


def test_P5_a_worker_that_cannot_start_ends_in_a_thread(
    make: Make, tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    ckpt = make(model=Toy())
    recorder.wait_for(Fallback)
    assert ckpt.save(1).wait(60).step == 1
    (fallback,) = recorder.of(Fallback)
    assert "no worker process can be started" in fallback.reason
