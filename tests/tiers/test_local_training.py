"""A training with a local tier, in a thread and in a process: what it can wait for, lose, and go on from."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import asyncckpt
from asyncckpt import AsyncCheckpointer, Preempted, Preemption, RetentionPolicy
from asyncckpt.errors import SaveFailed, SaveSkipped, StorageDenied, TransientError
from asyncckpt.events import Damaged, PreemptionEnded, PreemptionPlanned, Restored, TierDurable, TierFailed
from asyncckpt.preemption.speed import Speed
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.slow import GatedStorage

from ..checkpointer.conftest import Make
from ..checkpointer.trainings import Recorder, Toy, steps
from .test_mirror_training import flip, plain, sound, train

pytestmark = pytest.mark.executors


def away() -> TransientError:
    return TransientError("the root is away")


def test_a_handle_can_be_waited_for_in_either_tier(make: Make, store: GatedStorage, tmp_path: Path) -> None:
    ckpt = make(local=tmp_path / "local", model=Toy(5))
    gate = store.hold("put", "data/*")
    handle = ckpt.save(1)
    assert handle.wait(60, tier="local").step == 1
    assert handle.status == "writing"
    assert asyncckpt.load(tmp_path / "local").state["model"]["weight"].unique().tolist() == [5]
    gate.open()
    assert handle.wait(60).step == handle.wait(tier="home").step == 1
    with pytest.raises(ValueError, match="wait\\(tier='mirror'\\): use one of home, local"):
        handle.wait(tier="mirror")


def test_without_a_local_tier_there_is_none_to_wait_for(make: Make) -> None:
    handle = make(model=Toy()).save(1)
    with pytest.raises(ValueError, match="use one of home"):
        handle.wait(tier="local")


def test_a_resume_reads_the_local_tier_and_counts_both(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder, registry: CollectorRegistry
) -> None:
    model = Toy()
    with make(local=tmp_path / "local", model=model, keep=RetentionPolicy(last=3)) as ckpt:
        for tier in ("home", "local"):
            assert registry.get_sample_value("asyncckpt_tier_durable_step", {"tier": tier}) == 0
        train(ckpt, model, 1, 2, 3, 4)
    for tier in ("home", "local"):
        assert registry.get_sample_value("asyncckpt_tier_durable_step", {"tier": tier}) == 4
        assert registry.get_sample_value("asyncckpt_tier_durable_timestamp_seconds", {"tier": tier}) > 0
    assert sound(LocalStorage(tmp_path / "local")) == [3, 4]
    assert sound(plain(store)) == [2, 3, 4]
    found = Toy()
    ckpt = make(local=tmp_path / "local", model=found)
    assert ckpt.resume().step == 4
    assert found.value == 4
    assert [event.tier for event in recorder.of(Restored)] == ["local"]
    assert recorder.of(Damaged) == []
    assert ckpt.restore(2).step == 2
    assert recorder.of(Restored)[-1].tier == "home"


def test_a_damaged_local_copy_is_told_and_the_roots_is_taken(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    model = Toy()
    with make(local=tmp_path / "local", model=model) as ckpt:
        train(ckpt, model, 1, 2)
    flip(LocalStorage(tmp_path / "local"), 2)
    found = Toy()
    with make(local=tmp_path / "local", model=found) as ckpt:
        assert ckpt.resume().step == 2
        assert found.value == 2
        train(ckpt, found, 3)
    assert [(event.step, event.tier) for event in recorder.of(Damaged)] == [(2, "local")]
    assert [event.tier for event in recorder.of(Restored)] == ["home"]
    assert sound(plain(store)) == [1, 2, 3]
    assert asyncckpt.load(tmp_path / "local", 3).info.step == 3  # shares nothing with what is damaged


def test_a_root_that_is_away_stops_no_local_commit_and_gets_the_newest_at_the_next_start(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    model = Toy()
    ckpt = make(local=tmp_path / "local", model=model)
    train(ckpt, model, 1)
    store.fail("put", "*", away)
    for step in (2, 3):
        model.value = step
        handle = ckpt.save(step)
        assert handle.wait(60, tier="local").step == step
        with pytest.raises(SaveFailed, match="the root is away"):
            handle.wait(60)
    ckpt.close()
    store.heal()
    assert sound(plain(store)) == [1]
    found = Toy()
    with make(local=tmp_path / "local", model=found) as ckpt:
        assert ckpt.resume().step == 3
        assert found.value == 3
        train(ckpt, found, 4)
    assert sound(plain(store)) == [1, 3, 4]
    assert [(event.tier, event.step) for event in recorder.of(TierDurable)] == [
        *(("local", step) for step in (1, 2, 3)),
        ("home", 3),
        ("local", 4),
    ]


def test_a_full_local_disk_fails_no_save_and_is_counted(
    make: Make, store: GatedStorage, mirror: GatedStorage, recorder: Recorder, registry: CollectorRegistry
) -> None:
    model = Toy()
    ckpt = make(local=mirror, model=model)
    mirror.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"))
    handle = ckpt.save(1)
    assert handle.wait(60).step == 1
    with pytest.raises(SaveFailed, match=r"step 1 is not on the local tier: .*No space left"):
        handle.wait(tier="local")
    assert [(event.tier, event.step, event.is_final) for event in recorder.of(TierFailed)] == [("local", 1, False)]
    assert registry.get_sample_value("asyncckpt_tier_failures_total", {"tier": "local"}) == 1
    mirror.heal()
    train(ckpt, model, 2)
    ckpt.close()
    assert sound(plain(store)) == [1, 2]
    assert sound(plain(mirror)) == [2]


def test_mirror_and_local_tier_go_together(
    make: Make, store: GatedStorage, mirror: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    model = Toy()
    with make(local=tmp_path / "local", mirror=mirror, model=model) as ckpt:
        train(ckpt, model, 1, 2)
    assert sound(LocalStorage(tmp_path / "local")) == [1, 2]
    assert sound(plain(mirror))[-1] == 2
    for damaged in (LocalStorage(tmp_path / "local"), plain(store)):
        flip(damaged, 2)
    found = Toy()
    ckpt = make(local=tmp_path / "local", mirror=mirror, model=found)
    assert ckpt.resume().step == 2
    assert found.value == 2
    assert recorder.of(Restored)[-1].tier == "mirror"


@pytest.mark.parametrize("inside", ["run", "run/local", ""])
def test_a_local_tier_in_the_root_or_around_it_is_refused(tmp_path: Path, inside: str) -> None:
    with pytest.raises(ValueError, match=r"local=.* and root=.* lie in each other"):
        AsyncCheckpointer(tmp_path / "run", local=tmp_path / inside, model=Toy())
    with pytest.raises(ValueError, match=r"mirror=.* and local=.* lie in each other"):
        AsyncCheckpointer(tmp_path / "run", local=tmp_path / "a", mirror=tmp_path / "a/b", model=Toy())
    assert list(tmp_path.iterdir()) == []


def test_a_local_tier_that_is_the_root_by_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with pytest.raises(ValueError, match=r"local=.*link/run' and root=.*disk/run' lie in each other"):
        AsyncCheckpointer(tmp_path / "disk" / "run", local=tmp_path / "link" / "run", model=Toy())
    assert list((tmp_path / "disk").iterdir()) == []


# -- an emergency ----------------------------------------------------------------------------------------------


def measured(ckpt: AsyncCheckpointer, *, root: float, local: float) -> None:
    """From now on the two stores are known to take so many bytes of state per second."""
    speedometer = ckpt._stopping._speedometer
    speedometer._recent.extend([Speed(root)] * 4)
    speedometer._nearer.extend([Speed(local)] * 4)


def test_with_a_slow_root_a_preemption_saves_on_the_local_tier_and_the_next_start_goes_on_from_that(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    model = Toy(1)
    ckpt = make(local=tmp_path / "local", model=model, preemption=Preemption(deadline=60))
    train(ckpt, model, 1)
    ckpt.step(1)
    measured(ckpt, root=1e-3, local=1e9)
    puts = store.count("put", "data/*")
    model.value = 2
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Preempted) as left:
        ckpt.step(2)
    ckpt.close()
    assert [event.decision for event in recorder.of(PreemptionPlanned)] == ["local"]
    assert [event.outcome for event in recorder.of(PreemptionEnded)] == ["local"]
    assert left.value.code == 143
    assert store.count("put", "data/*") == puts
    assert sound(plain(store)) == [1]
    found = Toy()
    with make(local=tmp_path / "local", model=found) as ckpt:
        assert ckpt.resume().step == 2
        assert found.value == 2
        assert steps(ckpt) == [1, 2]


def test_an_emergency_by_hand_says_where_it_is(make: Make, tmp_path: Path) -> None:
    ckpt = make(local=tmp_path / "local", model=Toy())
    ckpt.save(1).wait()
    measured(ckpt, root=1e-3, local=1e9)
    handle = ckpt.save(2, emergency=True, deadline=60)
    assert handle.wait(tier="local").step == 2
    with pytest.raises(SaveSkipped, match=r"step 2 is saved in .*local only: there was no time for the root"):
        handle.wait()
    assert handle.status == "skipped"


def test_an_emergency_that_the_local_disk_refuses_goes_to_the_root(make: Make, mirror: GatedStorage) -> None:
    ckpt = make(local=mirror, model=Toy())
    ckpt.save(1).wait()
    measured(ckpt, root=1e-3, local=1e9)
    mirror.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"))
    assert ckpt.save(2, emergency=True, deadline=60).wait().step == 2


def test_after_a_failure_the_local_tier_is_not_counted_on(make: Make, mirror: GatedStorage, recorder: Recorder) -> None:
    model = Toy()
    ckpt = make(local=mirror, model=model)
    train(ckpt, model, 1)
    assert ckpt._stopping._speedometer.local is not None
    mirror.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"))
    train(ckpt, model, 2)
    recorder.wait_for(TierFailed)
    assert ckpt._stopping._speedometer.local is None


# -- a kill ----------------------------------------------------------------------------------------------------


@pytest.mark.kills
def test_a_training_that_is_killed_between_the_two_commits_goes_on_from_the_local_one(
    store: GatedStorage, tmp_path: Path, executor: str, request: pytest.FixtureRequest
) -> None:
    from ..executor.conftest import wait_for_workers
    from ..executor.victim import Counter

    if executor == "thread":
        from asyncckpt.testing.shared import SharedGates

        shared = SharedGates(tmp_path / "shared")
    else:
        shared = store
    gate = shared.hold("put", "data/*-step-2-*.safetensors")
    nearer = tmp_path / "local"
    said = request.getfixturevalue("killed")("landing", shared.url, shared.name, str(nearer), executor)
    assert said["said"][0] == 2, said
    recorder, counter = Recorder(), Counter()
    assert sound(LocalStorage(shared.url)) == [1]
    assert sound(LocalStorage(nearer)) == [1, 2]
    with AsyncCheckpointer(
        shared.url, local=nearer, extra={"counter": counter}, executor="thread", listeners=[recorder]
    ) as ckpt:
        assert ckpt.resume().step == 2
        assert counter.step == 2
        assert counter.is_whole()
        counter.advance()
        ckpt.save(3).wait()
    gate.open()
    wait_for_workers(Path(shared.url))
    assert recorder.of(Restored)[-1].tier == "local"
    assert sound(LocalStorage(shared.url)) == [1, 2, 3]
    assert sound(LocalStorage(nearer)) == [2, 3]
    if executor == "thread":
        shared.close()
