"""A local disk that hangs: it costs one wait, the saves go to the root, and it is used again when it is back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, Preempted, Preemption, SaveHandle
from asyncckpt.errors import SaveFailed, SaveSuperseded, TransientError
from asyncckpt.events import Fallback, Leftover, PreemptionEnded, PreemptionPlanned, Restored, TierFailed
from asyncckpt.format import names
from asyncckpt.preemption import plan
from asyncckpt.storage import LocalStorage, bounded, stopped
from asyncckpt.storage.base import Storage
from asyncckpt.testing.files import Call, WatchedFiles
from asyncckpt.testing.hanging import Hang, HangingReads, Patient
from asyncckpt.testing.slow import PATIENCE, GatedStorage
from asyncckpt.worker import room, tier

from ..checkpointer.conftest import Make
from ..checkpointer.trainings import Big, Recorder, Toy
from .test_local_training import measured
from .test_mirror_training import plain, sound, train

pytestmark = pytest.mark.executors


@pytest.fixture
def nearer(mirror: GatedStorage) -> Patient:
    """A local tier that hangs where the test says so."""
    return Patient(mirror)


def save(ckpt: AsyncCheckpointer, model: Toy, step: int) -> SaveHandle:
    """The weights are the step."""
    model.value = step
    handle = ckpt.save(step)
    handle.wait(60)
    return handle


def until_it_lands(ckpt: AsyncCheckpointer, model: Toy, step: int) -> int:
    """Save from `step` on until one is on the local tier again; which one that is."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        handle = save(ckpt, model, step)
        try:
            return handle.wait(tier="local").step
        except SaveFailed:
            step += 1
    raise AssertionError("the local tier is not used again")


def check_misses(recorder: Recorder, registry: CollectorRegistry, first: int, landed: int) -> None:
    """What the local tier lacks is told: from `first` on, up to the one that `landed`."""
    missed = list(range(first, landed))
    assert [event.step for event in recorder.of(TierFailed)] == missed
    assert registry.get_sample_value("asyncckpt_tier_failures_total", {"tier": "local"}) == len(missed)


def test_a_write_that_hangs_costs_one_wait_and_no_memory(
    make: Make,
    store: GatedStorage,
    mirror: GatedStorage,
    nearer: Patient,
    recorder: Recorder,
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With one generation: every save needs the memory of the one before it."""
    model = Toy()
    ckpt = make(local=nearer, model=model, generations=1)
    train(ckpt, model, 1)
    hang = Hang(nearer, "put", "data/*-step-2-*")
    model.value = 2
    handle = ckpt.save(2)
    hang.wait_reached()
    assert ckpt.prune(timeout=60).removed == ()
    hang.begin()
    assert handle.wait(60).step == 2
    with pytest.raises(SaveFailed, match=r"step 2 is not on the local tier: .*put data/\S*-step-2-\S* has not gone on"):
        handle.wait(tier="local")
    assert handle.id == "00000003", "the name of what may be written there still is used again"
    puts, third = mirror.count("put"), save(ckpt, model, 3)
    with pytest.raises(SaveFailed, match=r"step 3 is not on the local tier: .*nothing else is asked of it"):
        third.wait(tier="local")
    assert mirror.count("put") == puts
    assert int(third.id) == int(handle.id) + 1, "it was tried there"
    assert "the local tier does not have step 2" in caplog.text
    hang.end()
    landed = until_it_lands(ckpt, model, 4)
    check_misses(recorder, registry, 2, landed)
    ckpt.close()
    assert sound(plain(store)) == list(range(1, landed + 1))
    assert sound(plain(mirror)) == [1, landed]
    found = Toy()
    with make(local=plain(mirror), model=found) as again:
        assert again.resume().step == landed
        assert found.value == landed
    for step in (2, 3):
        make(model=found).restore(step)
        assert found.value == step


def test_a_record_that_hangs_may_come_late_and_harms_nothing(
    make: Make,
    store: GatedStorage,
    mirror: GatedStorage,
    nearer: Patient,
    recorder: Recorder,
    registry: CollectorRegistry,
) -> None:
    model = Toy()
    ckpt = make(local=nearer, model=model)
    train(ckpt, model, 1)
    ckpt.wait(60)
    hang = Hang(nearer, "put", _next_record(plain(mirror)))
    model.value = 2
    handle = ckpt.save(2)
    hang.begin()
    assert handle.wait(60).step == 2
    with pytest.raises(SaveFailed, match=r"step 2 is not on the local tier: .*could not find out"):
        handle.wait(tier="local")
    hang.end()
    landed = until_it_lands(ckpt, model, 3)
    check_misses(recorder, registry, 2, landed)
    ckpt.close()
    assert sound(plain(store)) == list(range(1, landed + 1))
    assert sound(plain(mirror))[-1] == landed
    found = Toy()
    ckpt = make(local=plain(mirror), model=found)
    assert ckpt.resume().step == landed
    assert found.value == landed


def _next_record(storage: Storage) -> str:
    """The key of what is committed next."""

    async def look() -> str:
        return max([info.key async for info in storage.list("commits/")])

    return names.record_key(int(Path(asyncio.run(look())).stem) + 1)


def test_a_disk_that_hangs_once_it_has_a_save_fails_that_one_alone(
    make: Make, store: GatedStorage, mirror: GatedStorage, nearer: Patient
) -> None:
    """Its memory is another's by then: it is on the local tier, for the next start to bring."""
    model = Toy()
    ckpt = make(local=nearer, model=model)
    train(ckpt, model, 1)
    hang = Hang(nearer, "get", "data/*-step-2-*")
    model.value = 2
    handle = ckpt.save(2)
    hang.begin()
    with pytest.raises(SaveFailed, match="the local tier has step 2, and cannot be read"):
        handle.wait(60)
    assert handle.wait(tier="local").step == 2
    save(ckpt, model, 3)
    hang.end()
    landed = until_it_lands(ckpt, model, 4)
    ckpt.close()
    assert sound(plain(store)) == [1, *range(3, landed + 1)]
    assert sound(plain(mirror))[-1] == landed


def test_deletion_that_hangs_is_left_to_the_next_start(
    make: Make, store: GatedStorage, mirror: GatedStorage, nearer: Patient, recorder: Recorder
) -> None:
    model = Toy()
    ckpt = make(local=nearer, model=model)
    hang = Hang(nearer, "delete", "data/*-step-1-*")
    train(ckpt, model, 1, 2, 3, 4)
    hang.begin()
    assert [event.what for event in recorder.wait_for(Leftover)] == ["deletion of dropped checkpoints"]
    save(ckpt, model, 5)
    hang.end()
    landed = until_it_lands(ckpt, model, 6)
    ckpt.close()
    assert sound(plain(store)) == list(range(1, landed + 1))
    assert sound(plain(mirror))[-1] == landed


def test_a_start_goes_on_from_the_root_and_ends_in_time(
    make: Make, store: GatedStorage, mirror: GatedStorage, nearer: Patient, recorder: Recorder
) -> None:
    model = Toy()
    with make(local=plain(mirror), model=model) as ckpt:
        train(ckpt, model, 1, 2)
    hang = Hang(nearer, "get", "run.json", begun=True)
    found = Toy()
    ckpt = make(local=nearer, model=found)
    assert ckpt.resume().step == 2
    assert found.value == 2
    assert [event.tier for event in recorder.of(Restored)] == ["home"]
    with pytest.raises(SaveFailed, match="step 3 is not on the local tier"):
        save(ckpt, found, 3).wait(tier="local")
    assert ckpt.restore(2).step == 2
    ckpt.close()
    hang.end()
    assert sound(plain(store)) == [1, 2, 3]
    with make(local=plain(mirror), model=found) as ckpt:
        assert ckpt.resume().step == 3
        assert found.value == 3
        train(ckpt, found, 4)
    assert sound(plain(mirror))[-1] == 4


def test_a_preemption_counts_on_the_root_alone(
    make: Make, store: GatedStorage, nearer: Patient, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs is not known to do so yet: it has only been on its way for longer than it should have."""
    monkeypatch.setattr(plan, "LEAST", 0.0)
    model = Toy()
    ckpt = make(local=nearer, model=model, preemption=Preemption(deadline=PATIENCE))
    train(ckpt, model, 1)
    measured(ckpt, root=1e9, local=1e9)
    hang = Hang(nearer, "put", "data/*-step-2-*")
    model.value = 2
    handle = ckpt.save(2)
    hang.wait_reached()
    assert handle.id
    Hang(nearer, "put", "data/*-step-3-*", begun=True)
    model.value = 3
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Preempted):
        ckpt.step(3)
    (planned,) = recorder.of(PreemptionPlanned)
    assert planned.decision == "save"
    assert not any("local" in reason for reason in planned.reasons)
    assert [event.outcome for event in recorder.of(PreemptionEnded)] == ["durable"]
    with pytest.raises(SaveSuperseded):
        handle.wait(60)
    ckpt.close()
    assert sound(plain(store)) == [1, 3]


class Held(WatchedFiles):
    """Writes of files whose path has `name` in it do not come back before `go`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.held, self.go = threading.Event(), threading.Event()

    def around(self, call: Call) -> Any:
        if call.name == "write" and any(self.name in path for path in call.paths):
            self.held.set()
            self.go.wait(2 * PATIENCE)
        return super().around(call)


class Wide(Toy):
    """Of more than a page, so that the disk is written from the memory of the save itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(64, 64))


def test_a_thread_that_the_kernel_holds_holds_up_nobody(
    make: Make,
    store: GatedStorage,
    executor: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It still reads the memory that the next save is copied into, and writes what never becomes an object."""
    if executor == "process":
        pytest.skip("no other process has such files")
    monkeypatch.setattr(stopped, "HELD", 0.0)
    files = Held("-step-2-")
    gated = GatedStorage(LocalStorage(tmp_path / "near", files=files))
    patience = gated.hold("hang", "put data/*-step-2-*")
    gated.fail("hang", "put data/*-step-2-*", TransientError)
    model = Wide()
    ckpt = make(local=Patient(gated), model=model, generations=1)
    save(ckpt, model, 1)
    model.value = 2
    handle = ckpt.save(2)
    assert files.held.wait(PATIENCE)
    patience.open()
    assert handle.wait(60).step == 2
    save(ckpt, model, 3)
    ckpt.close(PATIENCE)
    assert "did not finish" not in caplog.text
    files.go.set()
    ckpt._executor.pool._worker.thread.join(PATIENCE)
    assert not list((tmp_path / "near" / "data").glob("*-step-2-*/*"))
    assert sound(LocalStorage(tmp_path / "near")) == [1]
    assert sound(plain(store)) == [1, 2, 3]


# -- what is being read ----------------------------------------------------------------------------------------


def passed_over(recorder: Recorder, step: int) -> None:
    """That is told, once."""
    (fallback,) = [event for event in recorder.of(Fallback) if event.feature == "local"]
    said = rf"step {step} cannot be read from the local tier, and is read from the root: .*has not gone on"
    assert re.match(said, fallback.reason)


@pytest.mark.parametrize("call", ["resume", "restore"])
def test_a_checkpoint_whose_reading_hangs_there_is_read_in_the_root(
    make: Make, store: GatedStorage, mirror: GatedStorage, nearer: Patient, recorder: Recorder, call: str
) -> None:
    model = Toy()
    with make(local=plain(mirror), model=model) as ckpt:
        train(ckpt, model, 1, 2)
    found, hang = Toy(), Hang(nearer, "get", "data/*-step-2-*.safetensors")
    ckpt = make(local=nearer, model=found)
    with ThreadPoolExecutor(1) as thread:
        begun = thread.submit(hang.begin)
        state = ckpt.resume() if call == "resume" else ckpt.restore(2)
        begun.result(PATIENCE)
    assert state.step == found.value == 2
    assert [event.tier for event in recorder.of(Restored)] == ["home"]
    passed_over(recorder, 2)
    hang.end()
    if call == "resume":
        landed = until_it_lands(ckpt, found, 3)
        ckpt.close()
        assert sound(plain(store)) == list(range(1, landed + 1))
        assert sound(plain(mirror))[-1] == landed


@pytest.mark.executors("thread")
@pytest.mark.parametrize("call", ["resume", "restore"])
def test_what_was_being_read_into_live_tensors_comes_into_none_that_training_goes_on_with(
    make: Make, tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A resume is at that when it has begun to put the state back, and puts all of it back once more."""
    model = Big()
    with make(local=tmp_path / "near", model=model) as ckpt:
        train(ckpt, model, 1, 2)
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    monkeypatch.setattr(bounded, "LOOK", 0.01)
    files = HangingReads(monkeypatch)
    near, found = bounded.bounded(LocalStorage(tmp_path / "near", files=files)), Big()
    ckpt = make(local=near, model=found)
    state = ckpt.resume() if call == "resume" else ckpt.restore(2)
    assert state.step == found.value == 2
    assert [event.tier for event in recorder.of(Restored)] == ["home"]
    passed_over(recorder, 2)
    assert near.is_held
    found.value = 7
    files.go.set()
    deadline = time.monotonic() + PATIENCE
    while near.is_held:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert found.value == 7


# -- how much room there is --------------------------------------------------------------------------------------


@pytest.mark.executors("thread")
def test_a_disk_that_does_not_say_how_much_room_it_has_costs_one_wait_and_holds_up_no_end(
    make: Make,
    store: GatedStorage,
    tmp_path: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go, free = threading.Event(), room.free

    def held(storage: Storage) -> int | None:
        monkeypatch.setattr(bounded, "PATIENCE", 0.0)
        go.wait(2 * PATIENCE)
        return free(storage)

    model = Toy()
    ckpt = make(local=tmp_path / "near", model=model)
    save(ckpt, model, 1)
    monkeypatch.setattr(bounded, "LOOK", 0.01)
    monkeypatch.setattr(stopped, "HELD", 0.0)
    monkeypatch.setattr(room, "free", held)
    second = save(ckpt, model, 2)
    with pytest.raises(SaveFailed, match=r"step 2 is not on the local tier: .*free space has not gone on"):
        second.wait(tier="local")
    ckpt.close(PATIENCE)
    assert "did not finish" not in caplog.text
    go.set()
    ckpt._executor.pool._worker.thread.join(PATIENCE)
    assert sound(LocalStorage(tmp_path / "near")) == [1]
    assert sound(plain(store)) == [1, 2]


# -- a mirror ----------------------------------------------------------------------------------------------------


class Stuck(WatchedFiles):
    """Nothing of it comes back before `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def around(self, call: Call) -> Any:
        self.go.wait(2 * PATIENCE)
        return super().around(call)


@pytest.mark.executors("thread")
def test_a_mirror_on_a_disk_that_hangs_holds_up_no_start_no_save_and_no_end(
    make: Make,
    store: GatedStorage,
    tmp_path: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Toy()
    with make(mirror=tmp_path / "copies", model=model) as ckpt:
        train(ckpt, model, 1)
    monkeypatch.setattr(tier, "LOOK", 0.0)
    monkeypatch.setattr(bounded, "HURRY", 0.0)
    monkeypatch.setattr(stopped, "HELD", 0.0)
    files, found = Stuck(), Toy()
    ckpt = make(mirror=LocalStorage(tmp_path / "copies", files=files), model=found)
    assert ckpt.resume().step == found.value == 1
    save(ckpt, found, 2)
    ckpt.close(PATIENCE)
    assert "did not finish" not in caplog.text
    assert [event.tier for event in recorder.of(TierFailed)][-1:] == ["mirror"]
    files.go.set()
    assert sound(LocalStorage(tmp_path / "copies")) == [1]
    assert sound(plain(store)) == [1, 2]


# -- a start -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[GatedStorage]:
    """A folder whose requests can be held and failed, in whichever process they are made."""
    if sys.platform != "linux":
        pytest.skip("its gates need Linux")
    from asyncckpt.testing.shared import SharedGates

    gates = SharedGates(tmp_path / "near")
    yield gates
    gates.close()


def test_a_start_whose_disk_the_kernel_holds_leaves_it_in_either_process(
    make: Make,
    store: GatedStorage,
    shared: GatedStorage,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody opens a pipe that has no writer, neither in a thread nor for one that is told to stop."""
    model = Toy()
    with make(local=LocalStorage(shared.url), model=model) as ckpt:
        train(ckpt, model, 1, 2)
    run = Path(shared.url) / "run.json"
    content = run.read_bytes()
    run.unlink()
    os.mkfifo(run)
    try:
        monkeypatch.setattr(stopped, "HELD", 0.0)
        shared.fail("hang", "get run.json", TransientError)  # at once
        found = Toy()
        ckpt = make(local=Patient(shared), model=found)
        assert ckpt.resume().step == 2
        assert found.value == 2
        assert [event.tier for event in recorder.of(Restored)] == ["home"]
        save(ckpt, found, 3)
        ckpt.close(PATIENCE)
        assert "did not finish" not in caplog.text
    finally:
        os.close(os.open(run, os.O_RDWR | os.O_NONBLOCK))  # whoever opens it in a thread here goes on
    run.unlink()
    run.write_bytes(content)
    assert sound(LocalStorage(shared.url)) == [1, 2]
    assert sound(plain(store)) == [1, 2, 3]
