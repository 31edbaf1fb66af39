"""A worker process that is stopped: whoever waits for its answer is told so, and another one takes its place."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from asyncckpt import RetentionPolicy
from asyncckpt.errors import WorkerCrashed
from asyncckpt.events import Durable, Fallback
from asyncckpt.testing.shared import SharedGates
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker import link, succession
from asyncckpt.worker.bridge import ProcessExecutor
from asyncckpt.worker.vigil import Vigil

from ..checkpointer.trainings import Recorder, Toy, steps
from .conftest import Make, worker_of

pytestmark = pytest.mark.kills


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "SILENCE", 3.0)


CALLS: dict[str, Callable[[ProcessExecutor], Any]] = {
    "resume": lambda executor: executor.resume(),
    "go_on": lambda executor: executor.go_on(1, (), named=False, verified=None),
    "prune": lambda executor: executor.prune(dry_run=True),
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
    with pytest.raises(WorkerCrashed, match=f"{worker} has given no sign for .* call again") as told:
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
    with pytest.raises(WorkerCrashed, match="has given no sign"):
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
        with pytest.raises(WorkerCrashed, match="has given no sign"):
            ckpt.prune(dry_run=True)
        assert ckpt.prune(dry_run=True).removed == ()
    assert ckpt.save(2).wait(PATIENCE).step == 2
    assert worker_of(ckpt) != worker
    assert f"the worker process {worker} does not end although it was killed" in caplog.text
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


def test_P5_a_worker_that_only_takes_long_is_waited_for(make: Make, store: SharedGates) -> None:
    """Its store holds it up for longer than it may be silent, and it is not: it says that it lives."""
    from concurrent.futures import ThreadPoolExecutor

    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    ckpt.wait()
    worker, executor = worker_of(ckpt), ckpt._executor
    gate = store.hold("list", "user/*")
    with ThreadPoolExecutor(1) as thread:
        pruning = thread.submit(ckpt.prune, dry_run=True)
        gate.wait_reached()
        began = executor.heard
        assert began is not None
        while (heard := executor.heard) is not None and heard < began + succession.SILENCE + 1:
            assert not pruning.done()
        gate.open()
        assert pruning.result(PATIENCE).removed == ()
    assert worker_of(ckpt) == worker


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
