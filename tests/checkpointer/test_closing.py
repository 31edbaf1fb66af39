"""P12: what was saved is durable or reported, however the program ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer, RetentionPolicy, SavePolicy, load
from asyncckpt.errors import CheckpointerClosed, SaveFailed, StorageDenied
from asyncckpt.events import Event, Requested
from asyncckpt.lifecycle import living
from asyncckpt.staging.tasks import Tasks
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import (
    CtrlC,
    Toy,
    Training,
    elsewhere,
    once_it_waits,
    outcome,
    refuse_threads,
    start,
    steps,
    until_over,
)

pytestmark = pytest.mark.executors


def test_P12_wait_returns_when_everything_is_durable(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1), on_busy="wait")
    for step in range(1, 6):
        ckpt.step(step)
    ckpt.wait(timeout=60)
    assert steps(ckpt) == [1, 2, 3, 4, 5]
    ckpt.wait()


def test_P12_wait_returns_when_retention_has_run(make: Make, store: GatedStorage) -> None:
    """What a commit drops goes with the one after it; of that deletion nothing is left to do after ``wait``."""
    ckpt = make(model=Toy(), keep=RetentionPolicy(last=1))
    ckpt.save(1)
    ckpt.save(2).wait()
    ckpt.wait()
    with store.hold("delete", "data/*-step-1-*") as gate:
        ckpt.save(3).wait()
        with pytest.raises(TimeoutError, match="retention was still running"):
            ckpt.wait(timeout=0)
        gate.wait_reached()
        before = store.count("delete", "data/*-step-1-*")
        opening = once_it_waits("_is_over", gate.open)
        ckpt.wait()
        opening.join()
    assert before == 1


@pytest.mark.executors("thread")
def test_P12_wait_after_a_crash_waits_for_no_worker(store: GatedStorage) -> None:
    ckpt = AsyncCheckpointer(store, model=Toy(), executor="thread")  # a process would be replaced, and the save done
    store.fail("put", "data/*", SystemExit, times=1)
    with pytest.raises(SaveFailed, match="the background worker ended"):
        ckpt.save(1).wait()
    ckpt.wait()
    assert steps(ckpt) == []
    ckpt.close()


def test_P12_wait_with_a_limit_raises_and_names_what_is_under_way(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    with store.hold("put", "data/*"):
        ckpt.save(1)
        ckpt.save(2)
        with pytest.raises(TimeoutError, match=r"steps \[1, 2\]"):
            ckpt.wait(timeout=0.01)
    ckpt.wait()


def test_P12_close_finishes_what_was_saved_and_a_second_one_does_nothing(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    handles = [ckpt.save(1), ckpt.save(2)]
    ckpt.close()
    assert [handle.status for handle in handles] == ["durable", "durable"]
    requests = len(store.calls)
    ckpt.close()
    ckpt.close(timeout=0)
    assert len(store.calls) == requests


def test_P12_everything_raises_after_close_and_names_the_root(make: Make, tmp_path: Path) -> None:
    ckpt = make(tmp_path / "run", model=Toy(), save=SavePolicy(every_steps=1))
    ckpt.save(1)
    ckpt.close()
    calls = (
        lambda: ckpt.save(2),
        lambda: ckpt.step(2),
        lambda: ckpt.epoch_end(1),
        ckpt.resume,
        ckpt.restore,
        ckpt.checkpoints,
        ckpt.latest,
        ckpt.best,
    )
    for call in calls:
        with pytest.raises(CheckpointerClosed, match=str(tmp_path / "run")):
            call()
    ckpt.wait()
    ckpt.before_mutation()


def test_P12_close_ends_in_time_and_names_what_was_left_and_what_failed(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), generations=3)
    store.fail("put", "data/*-step-1-*", lambda: StorageDenied(28, "No space left on device"))
    with store.hold("put", "data/*") as gate:
        handles = [ckpt.save(step) for step in (1, 2, 3)]
        gate.wait_reached()
        until_over(handles[0])  # a worker process says so, and the gate is reached another way
        for handle in handles[1:]:
            handle.wait_staged()  # and so has been handed over
        with pytest.raises(SaveFailed, match=r"saves unfinished: steps \[2, 3\].*step 1") as raised:
            ckpt.close(timeout=0.05)
        assert {step: type(error) for step, error in raised.value.failures.items()} == {
            1: StorageDenied,
            2: TimeoutError,
            3: TimeoutError,
        }
        ckpt.close()
    assert [handle.wait().step for handle in handles[1:]] == [2, 3]


def test_P12_close_timeout_holds_for_leaving_with(store: GatedStorage, executor: str) -> None:
    def train() -> None:
        with AsyncCheckpointer(store, model=Toy(), close_timeout=0.05, executor=executor) as ckpt:
            ckpt.save(4)

    with store.hold("put", "data/*"), pytest.raises(SaveFailed, match=r"after 0\.05 s.*steps \[4\]"):
        train()


def test_P12_close_waits_no_longer_than_told_for_the_record_of_the_end(
    make: Make, store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    with store.hold("put", "commits/*") as gate:
        ckpt.close(timeout=0.05)
        gate.wait_reached()
    assert "the background worker did not finish" in caplog.text


def test_P12_an_interrupt_in_with_saves_what_was_asked_for(make: Make, store: GatedStorage) -> None:
    def train() -> None:
        with make(model=Toy()) as ckpt:
            ckpt.save(1)
            ckpt.save(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert steps(make(model=Toy())) == [1, 2]


@pytest.fixture
def ctrl_c() -> Iterator[CtrlC]:
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("no signals to a thread here")
    made = CtrlC()
    yield made
    made.restore()


def test_P12_an_interrupted_save_leaves_nothing_to_wait_for(make: Make, store: GatedStorage, ctrl_c: CtrlC) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    with store.hold("put", "data/*"):
        ckpt.save(1)
        ckpt.save(2)
        pressing = once_it_waits("lease", ctrl_c.press)
        with pytest.raises(KeyboardInterrupt):
            ckpt.save(3)
        pressing.join()
    ckpt.wait()
    assert ckpt.save(4).wait().step == 4
    ckpt.close()
    assert steps(make(model=training.model, optimizer=training.optimizer)) == [1, 2, 4]


def test_P12_an_interrupted_close_gives_nothing_up_and_can_be_called_again(
    make: Make, store: GatedStorage, ctrl_c: CtrlC
) -> None:
    ckpt = make(model=Toy())
    with store.hold("put", "data/*") as gate:
        ckpt.save(1)
        pressing = once_it_waits("close", ctrl_c.press)
        with pytest.raises(KeyboardInterrupt):
            ckpt.close()
        pressing.join()
        with pytest.raises(CheckpointerClosed):
            ckpt.save(2)  # it takes nothing more
        gate.open()
    ckpt.close()
    assert steps(make(model=Toy())) == [1]


INTERRUPTED = """
import sys
from asyncckpt import AsyncCheckpointer
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.slow import GatedStorage
from tests.checkpointer.trainings import CtrlC, Toy, once_it_waits
ctrl_c = CtrlC()
store = GatedStorage(LocalStorage(sys.argv[1]))
gate = store.hold("put", "data/*")
ckpt = AsyncCheckpointer(store, model=Toy())
ckpt.save(1)
pressing = once_it_waits("close", ctrl_c.press)
try:
    ckpt.close()
except KeyboardInterrupt:
    print("interrupted", flush=True)
pressing.join()
gate.open()
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to a thread here")
def test_P12_what_an_interrupted_close_has_left_is_waited_for_at_the_end_of_the_program(tmp_path: Path) -> None:
    assert outcome(start(INTERRUPTED, tmp_path / "run")) == (0, "interrupted\n", "")
    assert load(tmp_path / "run").info.step == 1


class Pressing:
    """A listener during which somebody presses Ctrl-C, once."""

    def __init__(self) -> None:
        self._armed = True

    def on_event(self, event: Event) -> None:
        if isinstance(event, Requested) and self._armed:
            self._armed = False
            raise KeyboardInterrupt


def test_P12_an_interrupt_while_a_save_is_announced_leaves_nothing_to_wait_for(make: Make) -> None:
    ckpt = make(model=Toy(), listeners=[Pressing()])
    with pytest.raises(KeyboardInterrupt):
        ckpt.save(1)
    assert ckpt._saver.handles == []
    ckpt.wait()
    assert ckpt.save(2).wait().step == 2


@pytest.mark.executors("thread")
def test_one_that_cannot_be_closed_keeps_no_other_from_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone() -> None:
        raise RuntimeError("the device is gone")

    elsewhere(monkeypatch)
    monkeypatch.setattr(living, "_runs", {})
    first, second = (make(MemoryStorage(name), model=Toy()) for name in ("first", "second"))
    with monkeypatch.context() as patch:
        patch.setattr(first, "close", gone)
        handle = second.save(1)
        living._close_all()
    assert handle.done()
    assert "closing the checkpointer of memory://first" in caplog.text
    with pytest.raises(CheckpointerClosed):
        second.save(2)


class Interrupting:
    """A queue during whose next put, before or after it took place, somebody presses Ctrl-C."""

    def __init__(self, inner: Tasks, *, after: bool) -> None:
        self.start = inner.start
        self._put, self._after, self._armed = inner.put, after, True

    def put(self, task: Callable[[], None]) -> None:
        armed, self._armed = self._armed, False
        if self._after or not armed:
            self._put(task)
        if armed:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
def test_P12_an_interrupt_while_a_snapshot_is_handed_over_costs_no_generation(make: Make, after: bool) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    ckpt.save(1).wait()
    stager = ckpt._saver.stager
    inner = stager._copier
    for step in (2, 3, 4):  # more often than there are generations
        stager._copier = Interrupting(inner, after=after)
        with pytest.raises(KeyboardInterrupt):
            ckpt.save(step)
        stager._copier = inner
        training.step()
    assert ckpt.save(5).wait().step == 5
    ckpt.close()
    assert len(ckpt._saver._arenas._free) <= 2
    found = steps(make(model=training.model, optimizer=training.optimizer))
    assert (found[0], found[-1]) == (1, 5)


def test_a_machine_without_another_thread_fails_the_save_and_holds_no_step(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    with monkeypatch.context() as patch:
        refuse_threads(patch, "asyncckpt-copy")
        for step in (1, 2, 3):
            with pytest.raises(SaveFailed, match="can't start new thread"):
                ckpt.save(step).wait()
            training.step()
    assert ckpt.save(4).wait().step == 4


def test_P12_closing_from_another_thread_answers_a_read_under_way(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    gate = store.hold("get", "data/*")
    with ThreadPoolExecutor(1) as thread:
        restoring = thread.submit(ckpt.restore, 1)
        gate.wait_reached()
        ckpt.close()
        with pytest.raises(CheckpointerClosed):
            restoring.result()


# -- however a program ends --------------------------------------------------------------------------------

PROGRAM = """
import sys
import torch
from asyncckpt import AsyncCheckpointer, SavePolicy

def train(root):
    model = torch.nn.Linear(512, 512)
    ckpt = AsyncCheckpointer(root, model=model, save=SavePolicy(every_steps=1))
    ckpt.step(1)
    ckpt.save(2)
    return None if {forgets} else ckpt

kept = train(sys.argv[1])
{ending}
"""

ENDINGS = {
    "returns": ("", 0),
    "forgets": ("import gc; gc.collect()", 0),
    "exits": ("sys.exit(3)", 3),
    "raises": ("raise RuntimeError('the training failed')", 1),
    "exits in a thread": ("import threading; threading.Thread(target=lambda: kept.save(3)).start()", 0),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, subprocess.Popen[str]]]]:
    """A program for each way to end, all started at once."""
    started = {}
    for name, (ending, _) in ENDINGS.items():
        root = tmp_path_factory.mktemp("ended") / "run"
        started[name] = (root, start(PROGRAM.format(ending=ending, forgets=name == "forgets"), root))
    yield started
    for _, process in started.values():
        process.kill()
        process.communicate()  # its pipes too: of tests that ran elsewhere nobody has read them


@pytest.mark.parametrize("name", ENDINGS)
def test_P12_a_program_that_ends_without_close_loses_nothing(
    ended: dict[str, tuple[Path, subprocess.Popen[str]]], name: str
) -> None:
    root, process = ended[name]
    status, _, errors = outcome(process)
    assert status == ENDINGS[name][1], errors
    assert load(root).info.step == (3 if name == "exits in a thread" else 2)
    assert list(root.glob("commits/*.json")) != []
    assert ("the training failed" in errors) == (name == "raises")
    assert "Exception ignored" not in errors


FORK = """
import faulthandler, multiprocessing, os, sys
import torch
from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import CheckpointerClosed
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.slow import GatedStorage

def uses(ckpt, handle, optimizer):
    faulthandler.dump_traceback_later(150, exit=True)  # a child that hangs says where
    for call in (lambda: ckpt.save(5), lambda: ckpt.step(5), ckpt.checkpoints, ckpt.latest, ckpt.best, ckpt.restore,
                 ckpt.resume, ckpt.wait, lambda: ckpt.epoch_end(1), handle.wait):
        try:
            call()
        except CheckpointerClosed as error:
            assert "forked" in str(error), error
        else:
            raise AssertionError(call)
    optimizer.step()  # the guard is the parent's
    ckpt.before_mutation()
    ckpt.close()

model = torch.nn.Linear(4, 4)
optimizer = torch.optim.Adam(model.parameters())
model(torch.ones(1, 4)).sum().backward()
store = GatedStorage(LocalStorage(sys.argv[1]))
ckpt = AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="always", metrics=0)
ckpt.save(1).wait()
optimizer.step()
gate = store.hold("put", "data/*")
handle = ckpt.save(2)
gate.wait_reached()
context = multiprocessing.get_context("fork")
children = [context.Process(target=uses, args=(ckpt, handle, optimizer)), context.Process(target=int)]
for child in children:
    child.start()
for child in children:
    child.join(160)
    print(child.exitcode)
if os.fork() == 0:
    sys.exit(0)
print(os.wait()[1])
gate.open()
print(handle.wait().step, ckpt.save(3).wait().step)
ckpt.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_P12_a_forked_child_can_neither_use_nor_harm_the_run(tmp_path: Path) -> None:
    root = tmp_path / "run"
    status, out, errors = outcome(start(FORK, root))
    assert (status, out.split()) == (0, ["0", "0", "0", "2", "3"]), errors
    assert "Traceback" not in errors
    with AsyncCheckpointer(root, model=Toy()) as ckpt:
        assert steps(ckpt) == [1, 2, 3]


def test_a_checkpointer_that_could_not_be_made_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path, model=Toy()) as first:
        with pytest.raises(TypeError, match="metrics='x': give a port"):
            AsyncCheckpointer(tmp_path, model=Toy(), metrics="x")
        assert first.save(1).wait().step == 1
