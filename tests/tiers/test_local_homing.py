"""From the local tier to the root: a root that hangs holds up neither memory nor local commits, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import CheckpointInfo, Preempted, Preemption, SaveHandle, SavePolicy
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import SaveFailed, SaveSuperseded, TransientError
from asyncckpt.events import Ahead, Durable, PreemptionEnded, Superseded, TierDurable, TierFailed
from asyncckpt.format.record import Checkpoint
from asyncckpt.saves import waiting
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from ..checkpointer.conftest import Make
from ..checkpointer.trainings import Recorder, Toy
from .test_local_training import measured
from .test_mirror_training import plain, sound

pytestmark = pytest.mark.executors


def _checkpoints(storage: Storage) -> list[Checkpoint]:
    return list(asyncio.run(Catalog(storage).listing()).checkpoints)


def test_a_root_that_hangs_holds_neither_memory_nor_local_commits(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder, registry: CollectorRegistry
) -> None:
    """With one generation, that each save needs; and what it holds by then is another one's."""
    model = Toy()
    ckpt = make(local=tmp_path / "local", model=model, generations=1)
    gate = store.hold("put", "data/*")
    handles = []
    for step in range(1, 7):
        model.value = step
        handles.append(ckpt.save(step, on_busy="coalesce"))
        assert handles[-1].wait(60, tier="local").step == step
        if step == 1:
            gate.wait_reached()
    for step in (2, 3, 4, 5):
        said = rf"step {step} is on the local tier only: step [3-6] .*took its place on the way"
        with pytest.raises(SaveSuperseded, match=said):
            handles[step - 1].wait(60)
    assert [handle.status for handle in handles] == ["writing", *["superseded"] * 4, "writing"]
    assert registry.get_sample_value("asyncckpt_local_ahead_checkpoints") == 6
    gate.open()
    assert [handles[n].wait(60).step for n in (0, 5)] == [1, 6]
    ckpt.wait(60)
    assert sound(plain(store)) == [1, 6]
    assert [(event.step, event.by_step) for event in recorder.of(Superseded)] == [(n, n + 1) for n in range(2, 6)]
    assert registry.get_sample_value("asyncckpt_local_ahead_checkpoints") == 0
    ckpt.close()
    assert sound(LocalStorage(tmp_path / "local"))[-1] == 6
    assert recorder.of(TierFailed) == []


def test_who_is_told_that_a_save_is_on_the_local_tier_finds_its_memory_free(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased, landed = list[object](), SaveHandle._landed
    ckpt = make(local=tmp_path / "local", model=Toy())

    def has_landed(handle: SaveHandle, info: CheckpointInfo) -> None:
        leased.append(dict(ckpt._saver._arenas._leased))
        landed(handle, info)

    monkeypatch.setattr(SaveHandle, "_landed", has_landed)
    ckpt.save(1).wait(60, tier="local")
    assert leased == [{}]


def test_saves_that_nothing_may_take_the_place_of_all_come_home_in_their_order(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    model = Toy()
    with make(local=tmp_path / "local", model=model, generations=1, save=SavePolicy(every_steps=1)) as ckpt:
        first, second = (store.hold("put", f"data/*-step-{step}-*") for step in (1, 2))
        handles = []
        for step in range(1, 6):
            if step == 4:
                assert {handle.status for handle in handles} == {"writing"}
                first.open()
                handles[0].wait(60)
            model.value = step
            handles.append(ckpt.save(step))
            handles[-1].wait(60, tier="local")
        assert {handle.status for handle in handles[1:]} == {"writing"}
        second.open()
        assert [handle.wait(60).step for handle in handles] == [1, 2, 3, 4, 5]
    assert sound(plain(store)) == [1, 2, 3, 4, 5]
    assert [event.step for event in recorder.of(Durable)] == [1, 2, 3, 4, 5]
    assert [c.parent for c in _checkpoints(plain(store))][1:] == [c.seq for c in _checkpoints(plain(store))][:-1]


def test_with_on_busy_wait_periodic_saves_all_come_home_too(make: Make, store: GatedStorage, tmp_path: Path) -> None:
    model = Toy()
    save = SavePolicy(every_steps=1)
    with make(local=tmp_path / "local", model=model, generations=1, save=save, on_busy="wait") as ckpt:
        gate = store.hold("put", "data/*")
        for step in range(1, 5):
            model.value = step
            ckpt.step(step).wait(60, tier="local")
        gate.open()
    assert sound(plain(store)) == [1, 2, 3, 4]


def test_a_save_that_the_local_disk_refuses_goes_to_the_root_after_those_on_their_way(
    make: Make, store: GatedStorage, mirror: GatedStorage, recorder: Recorder
) -> None:
    """From memory, which it keeps until then; and the next one is on the local tier again."""
    model = Toy()
    ckpt = make(local=mirror, model=model)
    gate = store.hold("put", "data/*")
    model.value = 1
    handles = [ckpt.save(1)]
    handles[0].wait(60, tier="local")
    gate.wait_reached()
    model.value = 2
    handles.append(ckpt.save(2))
    handles[1].wait(60, tier="local")
    mirror.fail("put", "data/*", lambda: TransientError("the disk is away"))
    model.value = 3
    handles.append(ckpt.save(3))
    with pytest.raises(SaveFailed, match=r"step 3 is not on the local tier: .*the disk is away"):
        handles[2].wait(60, tier="local")
    mirror.heal()
    assert {handle.status for handle in handles} == {"writing"}
    gate.open()
    model.value = 4
    handles.append(ckpt.save(4))
    assert [handle.wait(60).step for handle in handles] == [1, 2, 3, 4]
    ckpt.close()
    assert sound(plain(store)) == [1, 2, 3, 4]
    assert sound(plain(mirror))[-1] == 4
    assert 3 not in sound(plain(mirror))
    assert [event.step for event in recorder.of(Durable)] == [1, 2, 3, 4]
    assert [event.step for event in recorder.of(TierFailed)] == [3]


def test_a_local_disk_that_cannot_be_read_back_fails_that_save_and_says_so(
    make: Make, mirror: GatedStorage, store: GatedStorage, recorder: Recorder
) -> None:
    ckpt = make(local=mirror, model=Toy(1))
    mirror.fail("get", "data/*", lambda: TransientError("the disk hangs"))
    handle = ckpt.save(1)
    with pytest.raises(SaveFailed, match=r"the local tier has step 1, and cannot be read: .*the disk hangs"):
        handle.wait(60)
    assert handle.wait(tier="local").step == 1
    mirror.heal()
    ckpt.save(2).wait(60)
    ckpt.close()
    assert sound(plain(store)) == [2]
    assert [event.step for event in recorder.of(TierFailed)] == [1]


def test_an_emergency_takes_the_place_of_all_that_wait(make: Make, store: GatedStorage, tmp_path: Path) -> None:
    model = Toy()
    ckpt = make(local=tmp_path / "local", model=model)
    gate = store.hold("put", "data/*")
    handles = []
    for step in (1, 2, 3):
        model.value = step
        handles.append(ckpt.save(step))
        handles[-1].wait(60, tier="local")
    gate.wait_reached()
    model.value = 4
    emergency = ckpt.save(4, emergency=True)
    emergency.wait(60, tier="local")
    for handle in handles[1:]:
        with pytest.raises(SaveSuperseded, match=r"step 4 .*took its place"):
            handle.wait(60)
    assert handles[0].status == "writing"
    gate.open()
    assert emergency.wait(60).step == 4
    ckpt.close()
    assert sound(plain(store)) == [1, 4]


def test_an_emergency_gives_up_what_is_being_copied_where_there_is_no_time_for_both(
    make: Make, store: GatedStorage, tmp_path: Path
) -> None:
    model = Toy(1)
    ckpt = make(local=tmp_path / "local", model=model)
    ckpt.save(1).wait()
    gate = store.hold("put", "data/*-step-2-*")
    model.value = 2
    second = ckpt.save(2)
    gate.wait_reached()
    second.wait(60, tier="local")  # a worker process has said so: else its disk may be taken to hang by now
    measured(ckpt, root=1e-3, local=1e9)
    model.value = 3
    third = ckpt.save(3, emergency=True, deadline=60)
    assert third.wait(60, tier="local").step == 3
    with pytest.raises(SaveSuperseded, match="step 2 is on the local tier only"):
        second.wait(60)
    ckpt.close()
    gate.open()
    assert sound(plain(store)) == [1]
    assert sound(LocalStorage(tmp_path / "local")) == [1, 2, 3]


def test_a_preemption_whose_root_is_late_says_that_the_local_tier_has_it(
    make: Make, store: GatedStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those who wait, the deadline passes when it is on the local tier, whenever that is."""
    passed, landed = [0.0], SaveHandle._landed

    def has_landed(handle: SaveHandle, info: CheckpointInfo) -> None:
        landed(handle, info)
        passed[0] = 1000.0

    monkeypatch.setattr(SaveHandle, "_landed", has_landed)
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    model, told = Toy(1), Recorder()
    ckpt = make(local=tmp_path / "local", model=model, preemption=Preemption(deadline=PATIENCE), listeners=[told])
    gate = store.hold("put", "data/*")
    ckpt.step(1)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Preempted):
        ckpt.step(2)
    assert [event.outcome for event in told.of(PreemptionEnded)] == ["local"]
    gate.open()
    assert sound(LocalStorage(tmp_path / "local")) == [2]


@pytest.mark.kills
def test_a_worker_that_is_killed_on_the_way_home_is_replaced_by_one_that_needs_no_memory(
    make: Make, store: GatedStorage, tmp_path: Path, executor: str, recorder: Recorder
) -> None:
    if executor == "thread":
        pytest.skip("there is no worker process")
    from ..checkpointer.trainings import worker_of

    model = Toy()
    ckpt = make(local=tmp_path / "local", model=model, generations=1)
    gate = store.hold("put", "data/*")
    handles = []
    for step in (1, 2, 3):  # each in the memory of the one before it
        model.value = step
        handles.append(ckpt.save(step))
        handles[-1].wait(60, tier="local")
    gate.wait_reached()
    os.kill(worker_of(ckpt), signal.SIGKILL)
    gate.wait_reached(2)
    gate.open()
    assert [handle.wait(60).step for handle in handles] == [1, 2, 3]
    ckpt.close()
    assert sound(plain(store)) == [1, 2, 3]
    for step in (1, 2, 3):
        found = Toy()
        make(model=found).restore(step)
        assert found.value == step
    assert [event.step for event in recorder.of(TierDurable) if event.tier == "local"] == [1, 2, 3]


@pytest.mark.kills
def test_what_is_on_a_local_tier_that_is_gone_is_never_written_from_memory_that_others_use_by_now(
    make: Make, store: GatedStorage, mirror: GatedStorage, executor: str
) -> None:
    if executor == "thread":
        pytest.skip("there is no worker process")
    from ..checkpointer.trainings import worker_of

    model = Toy()
    ckpt = make(local=mirror, model=model, generations=1)
    gate = store.hold("put", "data/*")
    handles = []
    for step in (1, 2):  # the second in the memory of the first
        model.value = step
        handles.append(ckpt.save(step))
        handles[-1].wait(60, tier="local")
    gate.wait_reached()
    for request in ("put", "list", "get", "head", "probe"):
        mirror.fail(request, "*", lambda: TransientError("the disk is away"))
    os.kill(worker_of(ckpt), signal.SIGKILL)
    gate.open()
    for step, handle in zip((1, 2), handles, strict=True):
        with pytest.raises(SaveFailed, match=rf"step {step} is on the local tier, which is not to be had now"):
            handle.wait(60)
    mirror.heal()
    ckpt.close()
    assert sound(plain(store)) == []
    assert sound(plain(mirror)) == [1, 2]


def test_what_the_local_tier_is_ahead_is_told(make: Make, tmp_path: Path, recorder: Recorder) -> None:
    ckpt = make(local=tmp_path / "local", model=Toy())
    ckpt.save(1).wait()
    ckpt.wait()
    ahead = recorder.of(Ahead)
    assert [event.checkpoints for event in ahead] == [1, 0]
    assert ahead[0].bytes > 0
