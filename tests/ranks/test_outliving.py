"""Ranks whose trainers are killed: what all of them had staged becomes durable, what one had not leaves nothing."""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from asyncckpt import ProcessConfig
from asyncckpt.distributed import coordinator
from asyncckpt.errors import SaveFailed
from asyncckpt.events import Event, Fallback
from asyncckpt.testing.ranks import StoreHost
from tests.ranks.executors import Launcher
from tests.ranks.looking import failure_of, steps_of, unlisted
from tests.ranks.training import Training

if sys.platform != "linux":
    pytest.skip("worker processes need Linux", allow_module_level=True)

from asyncckpt.testing.shared import Joined, SharedGates
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker import logs
from asyncckpt.worker.process.bridge import ProcessExecutor
from asyncckpt.worker.watermark import Watermark
from tests.checkpointer.trainings import worker_of
from tests.executor.conftest import wait_for_workers

pytestmark = [pytest.mark.ranks, pytest.mark.kills]


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """Runs ranks with worker processes, which this process sees too."""
    runtime = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv(logs.FOLDER, str(runtime))
    return Launcher("process", runtime)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SharedGates]:
    """A store whose requests the test can hold, those of all ranks' worker processes."""
    shared = SharedGates(tmp_path / "store")
    yield shared
    shared.close()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Fallbacks:
    """Everything that ran in a weaker way than it could."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_told = threading.Event()

    def on_event(self, event: Event) -> None:
        if isinstance(event, Fallback):
            self.told.append(event.reason)
            self.is_told.set()


def _resume(root: str) -> tuple[int, int, list[str]]:
    training, fallbacks = Training(), Fallbacks()
    with training.checkpointer(Path(root), listeners=[fallbacks]) as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        taken = training.loader.taken
        training.step()
        assert checkpointer.save(state.step + 1).wait().step == state.step + 1
    return state.step, taken, fallbacks.told


# -- all are killed ----------------------------------------------------------------------------------------


def _all_staged_then_killed(url: str, name: str, saves: int) -> None:
    training = Training()
    # Whoever waits for a worker that waits for it stays for so long.
    checkpointer = training.checkpointer(Joined(url, name), executor=ProcessConfig(adopt_timeout=600))
    for step in range(1, saves):
        training.step()
        checkpointer.save(step).wait()
    training.step()
    checkpointer.save(saves).wait_staged()
    dist.barrier()
    _die()


@pytest.mark.parametrize("kept_by", ["rank 0", "launcher"])
@pytest.mark.parametrize(("world", "saves"), [(2, 1), (2, 2), (3, 2)])
def test_P5_what_all_ranks_had_staged_is_durable_although_all_are_killed_at_once(
    store: SharedGates, launch: Launcher, world: int, saves: int, kept_by: StoreHost
) -> None:
    gate = store.hold("put", f"data/*-step-{saves}-*")
    launch(_all_staged_then_killed, world, store.url, store.name, saves, killed=range(world), store=kept_by)
    assert store.count("reply", f"data/*-step-{saves}-*") == 0  # none of them had written anything of it
    gate.open()
    assert launch(_resume, world, store.url) == [(saves, saves, [])] * world
    assert steps_of(Path(store.url)) == list(range(1, saves + 2))
    assert unlisted(Path(store.url)) == []


@pytest.mark.parametrize(
    ("request_", "pattern"),
    [
        ("put", "data/*/rank-00000-of-00002.p0.safetensors"),
        ("put", "data/*/rank-00001-of-00002.p0.safetensors"),
        ("reply", "data/*/rank-00000-of-00002.json"),
        ("reply", "data/*/rank-00001-of-00002.json"),
        ("put", "data/*/manifest.json"),
        ("put", "commits/0000000002.json"),
    ],
)
def test_P5_all_may_be_killed_while_any_of_them_writes(
    store: SharedGates, launch: Launcher, request_: Any, pattern: str
) -> None:
    gate = store.hold(request_, pattern)
    launch(_all_staged_then_killed, 2, store.url, store.name, 1, killed=range(2))
    gate.wait_reached()
    gate.open()
    wait_for_workers(Path(store.url))
    assert steps_of(Path(store.url)) == [1]


def _queued_then_killed(url: str, name: str) -> None:
    """Two saves are staged while the first of them is held; and a third, that takes the second one's place."""
    training = Training()
    checkpointer = training.checkpointer(Joined(url, name))
    for step in (1, 2, 3):
        training.step()
        handle = checkpointer.save(step, on_busy="coalesce")
        if step == 1:
            handle.id  # noqa: B018 -- rank 0 has begun it: it cannot be superseded any more
    handle.wait_staged()
    dist.barrier()
    _die()


def test_P5_a_queue_of_saves_outlives_all_ranks(store: SharedGates, launch: Launcher) -> None:
    gate = store.hold("put", "data/*-step-1-*/rank-00000-*")
    launch(_queued_then_killed, 2, store.url, store.name, killed=range(2))
    gate.open()
    wait_for_workers(Path(store.url))
    assert steps_of(Path(store.url)) == [1, 3]


# -- one is killed before the others -----------------------------------------------------------------------


def _survives(root: str, victim: int) -> tuple[str, list[int]]:
    """`victim` is killed with its snapshot staged; what the other one knows of that save in the end."""
    training, store = Training(), SharedGates(Path(root))
    names: list[Any] = [None, None]
    dist.all_gather_object(names, (store.name, os.getpid()))
    (other, pid), held = names[1 - dist.get_rank()], store.hold("put", "data/*-step-2-*")
    survives = dist.get_rank() != victim
    checkpointer = training.checkpointer(store if survives else Joined(root, other))
    training.step()
    checkpointer.save(1).wait()
    training.step()
    handle = checkpointer.save(2)
    handle.wait_staged()
    dist.barrier()
    if not survives:
        _die()
    ended = os.pidfd_open(pid)
    select.select([ended], [], [])
    os.close(ended)
    held.open()
    step, listed = handle.wait(60).step, [info.step for info in checkpointer.checkpoints()]
    store.close()
    return f"{handle.status} {step}", listed


@pytest.mark.parametrize("kept_by", ["rank 0", "launcher"])
@pytest.mark.parametrize("victim", [0, 1])
def test_P5_who_lives_on_learns_that_the_save_with_the_dead_one_is_durable(
    tmp_path: Path, launch: Launcher, victim: int, kept_by: StoreHost
) -> None:
    root = str(tmp_path / "run")
    found = launch(_survives_and_dies, 2, root, victim, killed=range(2), store=kept_by)
    assert found == [None, None]
    assert (tmp_path / "run.said").read_text() == "durable 2 [1, 2]"
    wait_for_workers(tmp_path / "run")
    assert steps_of(tmp_path / "run") == [1, 2]


def _survives_and_dies(root: str, victim: int) -> None:
    """What it knows goes into a file: without the other one it cannot end in order."""
    said, listed = _survives(root, victim)
    Path(f"{root}.said").write_text(f"{said} {listed}")
    _die()


def _one_not_staged(url: str, name: str, moment: str) -> None:
    """Rank 1 is killed before its part of the second save is complete, and then rank 0 is, whose part is."""
    training = Training()
    checkpointer = training.checkpointer(Joined(url, name))
    training.step()
    checkpointer.save(1).wait()
    training.step()
    if dist.get_rank() == 0:
        checkpointer.save(2).wait_staged()
        dist.barrier()
        _die()
    if moment == "in mid-copy":
        mock.patch.object(Watermark, "advance").start()
        mock.patch.object(Watermark, "seal").start()
        checkpointer.save(2)
    dist.barrier()
    _die()


@pytest.mark.parametrize("moment", ["before its save", "in mid-copy"])
def test_P5_a_save_that_one_rank_had_not_staged_leaves_nothing_and_holds_nobody_up(
    store: SharedGates, launch: Launcher, moment: str
) -> None:
    launch(_one_not_staged, 2, store.url, store.name, moment, killed=range(2))
    # No fallback: nobody had to give up waiting for a worker that waits for a part that will not come.
    assert launch(_resume, 2, store.url) == [(1, 1, [])] * 2
    assert steps_of(Path(store.url)) == [1, 2]
    assert unlisted(Path(store.url)) == []


def _one_dies_unstaged(root: str) -> str:
    """Rank 1 is killed before it saves; what rank 0 is told."""
    coordinator.FAREWELL, training = 0.5, Training()
    checkpointer = training.checkpointer(Path(root))
    training.step()
    checkpointer.save(1).wait()
    dist.barrier()
    if dist.get_rank() == 1:
        _die()
    error = failure_of(checkpointer.save(2))
    assert [info.step for info in checkpointer.checkpoints()] == [1]
    checkpointer.close()
    return str(error)


def test_a_rank_that_is_seen_to_be_dead_is_named_at_once(tmp_path: Path, launch: Launcher) -> None:
    message, _ = launch(_one_dies_unstaged, 2, str(tmp_path), killed=[1])
    assert "no part of step 2 from rank 1: its process is dead" in message
    assert steps_of(tmp_path) == [1]
    assert unlisted(tmp_path) == []


def _with_its_worker(url: str, name: str) -> None:
    training = Training()
    checkpointer = training.checkpointer(Joined(url, name))
    training.step()
    checkpointer.save(1).wait()
    training.step()
    checkpointer.save(2).wait_staged()
    dist.barrier()
    if dist.get_rank() == 0:
        _die_together(worker_of(checkpointer))
    _die()


def _die_together(worker: int) -> None:
    """The trainer first, so that it cannot replace its worker; that is held until then."""
    os.kill(worker, signal.SIGSTOP)
    child = os.fork()
    if child == 0:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        os._exit(0)
    signal.pause()


def test_P5_a_worker_ends_once_rank_0s_will_never_write(store: SharedGates, launch: Launcher) -> None:
    gate = store.hold("put", "data/*-step-2-*/rank-00000-*")
    launch(_with_its_worker, 2, store.url, store.name, killed=range(2))
    gate.open()
    wait_for_workers(Path(store.url))
    assert launch(_resume, 2, store.url) == [(1, 1, [])] * 2
    assert unlisted(Path(store.url)) == []


# -- a worker process is killed ----------------------------------------------------------------------------


def _worker_dies(root: str, victim: int, request_: Any, pattern: str) -> list[tuple[int, str]]:
    """The worker of `victim` is killed at a request of the first of three saves."""
    training, store, fallbacks = Training(), SharedGates(Path(root)), Fallbacks()
    checkpointer = training.checkpointer(store, listeners=[fallbacks], on_busy="wait")
    gate = store.hold(request_, pattern)
    training.step()
    handles = [checkpointer.save(1)]
    checkpointer.before_mutation()
    if dist.get_rank() == victim:
        gate.wait_reached()
        os.kill(worker_of(checkpointer), signal.SIGKILL)
    gate.open()
    for step in (2, 3):
        training.step()
        handles.append(checkpointer.save(step))
    found = [(handle.wait(60).step, handle.status) for handle in handles]
    assert isinstance(checkpointer._executor, ProcessExecutor)
    assert fallbacks.told == []
    checkpointer.close()
    store.close()
    return found


@pytest.mark.parametrize(
    ("victim", "request_", "pattern"),
    [
        (0, "put", "data/*/rank-00000-of-00002.p0.safetensors"),
        (0, "get", "data/*/rank-00001-of-00002.json"),
        (0, "put", "data/*/manifest.json"),
        (0, "reply", "commits/*2.json"),
        (1, "put", "data/*/rank-00001-of-00002.p0.safetensors"),
        (1, "reply", "data/*/rank-00001-of-00002.json"),
    ],
)
def test_P5_a_worker_that_dies_on_one_rank_is_replaced_and_every_save_is_made_once(
    tmp_path: Path, launch: Launcher, victim: int, request_: str, pattern: str
) -> None:
    durable = [(step, "durable") for step in (1, 2, 3)]
    assert launch(_worker_dies, 2, str(tmp_path), victim, request_, pattern) == [durable] * 2
    assert steps_of(tmp_path) == [1, 2, 3]


def _mixed(root: str, threaded: int) -> tuple[str, list[str]]:
    training, fallbacks = Training(), Fallbacks()
    executor = "thread" if dist.get_rank() == threaded else "process"
    with training.checkpointer(Path(root), listeners=[fallbacks], executor=executor) as checkpointer:
        training.step()
        assert checkpointer.save(1).wait().step == 1
        if dist.get_rank() == 0 and threaded == 1:
            assert fallbacks.is_told.wait(PATIENCE)  # the worker looks who is there twice a second, beside its saves
        dist.barrier()
    return type(checkpointer._executor).__name__, fallbacks.told


@pytest.mark.parametrize("threaded", [0, 1])
def test_threads_and_processes_save_together_and_who_outlives_nothing_is_named(
    tmp_path: Path, launch: Launcher, threaded: int
) -> None:
    found = launch(_mixed, 2, str(tmp_path), threaded)
    assert found[threaded][0] == "ThreadExecutor"
    assert found[1 - threaded][0] == "ProcessExecutor"
    told = ["rank 1 saves in a thread, so that no snapshot outlives it"] if threaded == 1 else []
    assert found[0][1] == told
    assert steps_of(tmp_path) == [1]


# -- at any moment -----------------------------------------------------------------------------------------


def _until_killed(root: str, notes: str, saves: int, delay: float) -> None:
    """Save every step, and note what is staged, until this rank is killed so many seconds after all had staged `saves`.

    Or after the other one was.
    """
    training, fallbacks, rank = Training(), Fallbacks(), dist.get_rank()
    checkpointer = training.checkpointer(Path(root), on_busy="wait", listeners=[fallbacks])
    state = checkpointer.resume()
    step = state.step if state is not None else 0
    assert training.loader.taken == step
    Path(notes, f"resumed-{rank}").write_text(f"{step} {fallbacks.told}")
    dying = threading.Timer(delay, _die)
    with Path(notes, f"staged-{rank}").open("a") as staged, suppress(RuntimeError, SaveFailed):
        for number in itertools.count():
            if number == saves:
                # A rank 0 that has resumed and dies takes the store away, in which the other one waits for its word.
                dist.barrier()
                dying.start()
            training.step()
            checkpointer.save(step + number + 1).wait_staged()
            print(step + number + 1, file=staged, flush=True)
    if dying.ident is None:  # the other one is dead
        dying.start()
    dying.join()


def test_P5_whenever_all_ranks_are_killed_what_all_had_staged_is_there(tmp_path: Path, launch: Launcher) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    moments, needed = random.Random(seed), 0
    for kill in range(10):
        notes = tmp_path / f"notes-{kill}"
        notes.mkdir()
        store: StoreHost = moments.choice(["rank 0", "launcher"])
        saves, delay = 1 if kill == 0 else moments.randrange(3), moments.random() / 4
        launch(_until_killed, 2, str(tmp_path / "run"), str(notes), saves, delay, killed=[0, 1], store=store)
        (first, waited), (other, _) = ((notes / f"resumed-{rank}").read_text().split(maxsplit=1) for rank in (0, 1))
        assert first == other
        assert int(first) >= needed
        assert waited == "[]"
        needed = max([needed, min(_last(notes / f"staged-{rank}") for rank in (0, 1))])
    assert needed > 0


def _last(staged: Path) -> int:
    return max(map(int, staged.read_text().split()), default=0)
