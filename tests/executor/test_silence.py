"""A worker process that is stopped: whoever waits for its answer is told so, and another one takes its place."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from asyncckpt import Preemption, ProcessConfig, RetentionPolicy
from asyncckpt.errors import WorkerCrashed, WorkerLate
from asyncckpt.events import Durable, Fallback
from asyncckpt.testing.shared import SharedGates
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker.process import link, questions, succession
from asyncckpt.worker.process.bridge import ProcessExecutor
from asyncckpt.worker.process.vigil import Vigil

from ..checkpointer.trainings import Recorder, Toy, steps, worker_of
from .conftest import Make

pytestmark = pytest.mark.kills


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers say often that they live, and one that a busy machine holds up is not taken for silent."""
    monkeypatch.setattr(succession, "SILENCE", PATIENCE)
    monkeypatch.setattr(succession, "_BEATS", 4 * PATIENCE)


@contextmanager
def impatient() -> Iterator[None]:
    """One that has been stopped by now is silent after a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(succession, "SILENCE", 1.0)
        patch.setattr(succession, "_BEATS", 4)
        yield


CALLS: dict[str, Callable[[ProcessExecutor], Any]] = {
    "resume": lambda executor: executor.resume(),
    "go_on": lambda executor: executor.go_on(1, (), named=False, verified=None),
    "prune": lambda executor: executor.prune(dry_run=True).result(),
    "record": lambda executor: executor.record(1, {"loss": 0.5}).result(),
}


@pytest.mark.parametrize("name", CALLS)
def test_P5_who_waits_for_a_worker_that_is_stopped_is_told_so_and_the_next_call_finds_another(
    make: Make, recorder: Recorder, name: str
) -> None:
    ckpt = make(model=Toy(), keep=RetentionPolicy(last=2))
    executor: Any = ckpt._executor
    ckpt.save(1).wait()
    ckpt.wait()
    worker = worker_of(ckpt)
    os.kill(worker, signal.SIGSTOP)
    with impatient(), pytest.raises(WorkerCrashed, match=f"{worker} has given no sign for .* call again") as told:
        CALLS[name](executor)
    assert ckpt._storage.url in str(told.value)
    CALLS[name](executor)
    assert worker_of(ckpt) != worker
    assert {event.feature for event in recorder.of(Fallback)} == {"worker"}
    assert ckpt.save(2).wait(PATIENCE).step == 2
    assert steps(ckpt) == [1, 2]


def test_P5_what_a_stopped_worker_had_is_saved_once_by_the_one_that_takes_its_place(
    make: Make, store: SharedGates, recorder: Recorder
) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    gate = store.hold("put", "data/*")
    handle = ckpt.save(2)
    gate.wait_reached()
    os.kill(worker_of(ckpt), signal.SIGSTOP)
    with impatient(), pytest.raises(WorkerCrashed, match="has given no sign"):
        ckpt.prune(dry_run=True)
    gate.open()
    assert handle.wait(PATIENCE).step == 2
    ckpt.wait()
    assert steps(ckpt) == [1, 2]
    assert [event.step for event in recorder.of(Durable)] == [1, 2]


def test_P5_one_that_not_even_a_kill_ends_holds_nobody_up(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a process in the kernel, that waits for a disk which does not answer."""
    monkeypatch.setattr(link, "FAREWELL", 0.1)
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    worker = worker_of(ckpt)
    with monkeypatch.context() as patch:
        patch.setattr(link.Link, "kill", lambda link: None)
        os.kill(worker, signal.SIGSTOP)
        with impatient(), pytest.raises(WorkerCrashed, match="has given no sign"):
            ckpt.prune(dry_run=True)
        assert ckpt.prune(dry_run=True).removed == ()
    assert ckpt.save(2).wait(PATIENCE).step == 2
    assert worker_of(ckpt) != worker
    assert f"the worker process {worker} does not end although it was killed" in caplog.text
    os.kill(worker, signal.SIGKILL)
    link._unended.pop().wait(PATIENCE)  # else it is said to run still when the interpreter ends


def test_P5_a_worker_that_only_takes_long_is_waited_for_and_that_is_told(
    make: Make, store: SharedGates, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store holds it up, and it says that it lives all the while."""
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    ckpt.wait()
    monkeypatch.setattr(questions, "NOTICE", 0.5)
    worker, executor = worker_of(ckpt), ckpt._executor
    gate = store.hold("list", "user/*")
    with ThreadPoolExecutor(1) as thread:
        pruning = thread.submit(ckpt.prune, dry_run=True)
        gate.wait_reached()
        signs = {executor.heard}
        (told, *_) = recorder.wait_for(Fallback)
        while len(signs) < 4:
            signs.add(executor.heard)
            assert not pruning.done()
        gate.open()
        assert pruning.result(PATIENCE).removed == ()
    assert worker_of(ckpt) == worker
    assert told.feature == "worker"
    assert f"the worker process {worker} lives, and has not answered prune for" in told.reason
    assert ckpt._storage.url in told.reason


def test_that_somebody_waits_is_told_seldom_if_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(questions, "time", SimpleNamespace(monotonic=lambda: now))
    question, told = questions.Question(1, "prune", {}), []
    for now in range(5, 1000, 5):  # noqa: B007 -- the clock reads it
        question.look(10.0)
        if question.is_to_be_told():
            told.append(question.waited)
    assert told == [60, 120, 240, 480, 960]
    now += 3600  # a machine that was suspended
    question.look(10.0)
    assert question.waited == 995 + 10


HELD: dict[str, Callable[[ProcessExecutor], Any]] = {
    **CALLS,
    "prune": lambda executor: executor.prune(dry_run=False).result(),
}


@pytest.mark.parametrize("name", HELD)
def test_P5_an_answer_of_a_worker_that_lives_is_not_waited_for_for_ever(
    make: Make, store: SharedGates, name: str
) -> None:
    ckpt = make(model=Toy(), keep=RetentionPolicy(last=2), executor=ProcessConfig(answer_timeout=0.5))
    executor: Any = ckpt._executor
    executor._patience = PATIENCE  # what it reads itself, before it asks, is no answer
    ckpt.save(1).wait()
    worker, gate = worker_of(ckpt), store.hold("put", "commits/*")
    handle = ckpt.save(2)
    gate.wait_reached()
    with pytest.raises(WorkerLate, match=rf"process {worker} lives, and has not answered {name} within 0.5 s") as told:
        HELD[name](executor)
    assert ckpt._storage.url in str(told.value)
    executor._workers._patience = PATIENCE
    gate.open()
    assert handle.wait(PATIENCE).step == 2  # it was left to its work, and what it answers late disturbs nothing
    HELD[name](executor)
    assert worker_of(ckpt) == worker
    assert steps(ckpt) == [1, 2]


def test_P5_a_store_that_cannot_be_read_ends_a_resume_too(make: Make, store: SharedGates) -> None:
    ckpt = make(model=Toy(), executor=ProcessConfig(answer_timeout=0.1))
    ckpt.save(1).wait()
    with store.hold("list", "user/*"), pytest.raises(WorkerLate, match=r"nothing could be read of .* within 0.1 s"):
        ckpt._executor.resume()


def test_P5_who_waits_for_retention_asks_once_and_not_for_ever(make: Make, store: SharedGates) -> None:
    ckpt = make(model=Toy(), keep=RetentionPolicy(last=1), preemption=Preemption())
    executor: Any = ckpt._executor
    ckpt.save(1).wait()
    with store.hold("delete", "data/*") as gate:
        ckpt.save(2).wait()
        ckpt.save(3).wait()
        gate.wait_reached()
        with pytest.raises(TimeoutError, match="retention was still running"):
            ckpt.wait(0.5)  # looked at every tenth of a second, for a notice may come
        assert len(list(executor._exchange._questions)) == 1
        executor._workers._patience = 0.5
        with pytest.raises(WorkerLate, match="has not answered settled"):
            ckpt.wait()
        executor._workers._patience = PATIENCE
    ckpt.wait()
    assert steps(ckpt) == [3]


# -- how long that is --------------------------------------------------------------------------------------


def test_silence_is_counted_from_the_last_sign() -> None:
    now = 0.0
    vigil = Vigil(5.0, lambda: now)
    for now in (5.0, 10.0, 12.0):  # noqa: B007 -- the clock reads it
        vigil.look()
    assert vigil.silence == 12.0
    vigil.heard()
    assert vigil.silence == 0.0
    now = 15.0
    vigil.look()
    assert vigil.silence == 3.0


def test_a_machine_that_was_suspended_blames_nobody() -> None:
    now = 0.0
    vigil = Vigil(5.0, lambda: now)
    now = 3600.0
    vigil.look()
    assert vigil.silence == 10.0
