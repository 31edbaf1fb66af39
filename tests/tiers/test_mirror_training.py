"""A training with a mirror, in a thread and in a process: it never waits for it, and can go on from it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import asyncckpt
from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import RunRefused, StorageDenied, StorageError
from asyncckpt.events import Damaged, Durable, Fallback, Restored, Resumed, TierDurable, TierFailed
from asyncckpt.fetching.reading import verify
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.slow import GatedStorage

from ..checkpointer.conftest import Make
from ..checkpointer.trainings import Recorder, Toy, steps

pytestmark = pytest.mark.executors


def plain(gated: GatedStorage) -> Storage:
    """The same store, without gates."""
    return gated.inner if isinstance(gated.inner, MemoryStorage) else LocalStorage(gated.url)


def sound(storage: Storage) -> list[int]:
    """The steps that are listed; raises unless every byte of them is sound."""

    async def look() -> list[int]:
        catalog = Catalog(storage)
        listed = (await catalog.listing()).checkpoints
        for checkpoint in listed:
            await verify(catalog, checkpoint)
        return [checkpoint.step for checkpoint in listed]

    return asyncio.run(look())


def train(ckpt: AsyncCheckpointer, model: Toy, *steps: int) -> None:
    for step in steps:
        model.value = step
        ckpt.save(step).wait()


def test_what_is_durable_is_mirrored_and_can_be_gone_on_from(
    make: Make, store: GatedStorage, mirror: GatedStorage, recorder: Recorder, registry: CollectorRegistry
) -> None:
    model = Toy()
    ckpt = make(mirror=mirror, model=model, keep=RetentionPolicy(last=2))
    assert registry.get_sample_value("asyncckpt_tier_durable_step", {"tier": "mirror"}) == 0
    train(ckpt, model, 1, 2, 3)
    ckpt.close()
    last = recorder.of(TierDurable)[-1]
    assert (last.tier, last.step, last.seq) == ("mirror", 3, 3)
    assert last.created >= recorder.of(Durable)[-1].created
    assert recorder.of(TierFailed) == []
    for tier in ("home", "mirror"):
        assert registry.get_sample_value("asyncckpt_tier_durable_step", {"tier": tier}) == 3
        assert registry.get_sample_value("asyncckpt_tier_durable_timestamp_seconds", {"tier": tier}) > 0
    assert registry.get_sample_value("asyncckpt_tier_written_bytes_total", {"tier": "mirror"}) > 0
    assert registry.get_sample_value("asyncckpt_retained_checkpoints") == len(sound(plain(store)))
    assert sound(plain(store))[-1] == sound(plain(mirror))[-1] == 3
    found = Toy()
    again = make(plain(mirror), model=found, executor="thread")
    assert again.resume().step == 3
    assert found.value == 3


def test_B20_a_mirror_that_hangs_holds_up_nothing_and_gets_the_newest_once_it_goes_on(
    make: Make, mirror: GatedStorage, recorder: Recorder
) -> None:
    model = Toy()
    ckpt = make(mirror=mirror, model=model)
    gate = mirror.hold("put", "data/*.safetensors")
    train(ckpt, model, 1)
    gate.wait_reached()
    train(ckpt, model, 2, 3, 4)
    ckpt.wait(60)
    assert recorder.of(TierDurable) == []
    gate.open()
    recorder.wait_for(TierDurable, 2)
    assert [event.step for event in recorder.of(TierDurable)] == [1, 4]
    ckpt.close()
    assert sound(plain(mirror)) == [1, 4]


def test_B20_a_mirror_that_is_full_fails_no_save_and_is_counted(
    make: Make, mirror: GatedStorage, recorder: Recorder, registry: CollectorRegistry
) -> None:
    model = Toy()
    ckpt = make(mirror=mirror, model=model)
    mirror.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"))
    train(ckpt, model, 1)
    (failed,) = recorder.wait_for(TierFailed)
    assert (failed.tier, failed.step, failed.is_final) == ("mirror", 1, False)
    assert isinstance(failed.error, StorageDenied)
    mirror.release()
    train(ckpt, model, 2)
    ckpt.close()
    assert sound(plain(mirror))[-1] == 2
    # Not before: the recorder is told of a failure before the metrics are.
    assert registry.get_sample_value("asyncckpt_tier_failures_total", {"tier": "mirror"}) == 1
    assert registry.get_sample_value("asyncckpt_saves_total", {"outcome": "failed"}) == 0


def test_a_resume_mirrors_what_the_mirror_has_not_got(make: Make, store: GatedStorage, mirror: GatedStorage) -> None:
    first = make(model=Toy())
    first.save(1).wait()
    first.close()
    with make(mirror=mirror, model=Toy()) as ckpt:
        assert ckpt.resume().step == 1
    assert sound(plain(mirror)) == [1]


def test_an_emergency_does_not_wait_for_the_mirror(make: Make, mirror: GatedStorage) -> None:
    model = Toy()
    ckpt = make(mirror=mirror, model=model)
    gate = mirror.hold("put", "data/*.safetensors")
    train(ckpt, model, 1)
    gate.wait_reached()
    assert ckpt.save(2, emergency=True, deadline=60).wait().step == 2
    ckpt.close()
    assert steps(make(model=Toy())) == [1, 2]


def test_the_mirror_of_another_run_is_refused_before_anything_is_written(
    make: Make, store: GatedStorage, mirror: GatedStorage
) -> None:
    for root in (plain(store), plain(mirror)):
        with make(root, model=Toy(), executor="thread") as other:
            other.save(1).wait()
    ckpt = make(mirror=mirror, model=Toy())
    with pytest.raises(RunRefused, match="holds checkpoints of another run"):
        ckpt.resume()


def test_a_root_that_was_lost_is_not_begun_anew_beside_its_mirror(make: Make, mirror: GatedStorage) -> None:
    with make(plain(mirror), model=Toy(), executor="thread") as other:
        other.save(1).wait()
    ckpt = make(mirror=mirror, model=Toy())
    with pytest.raises(RunRefused, match=r"is empty, and its mirror .* holds 1 checkpoint"):
        ckpt.resume()


def flip(storage: Storage, step: int) -> None:
    """Damage the last byte of a step's pack."""

    async def act() -> None:
        keys = [found.key async for found in storage.list("data/")]
        (key,) = [key for key in keys if f"-step-{step}-" in key and key.endswith(".safetensors")]
        data = bytearray(await storage.get(key))
        data[-1] ^= 1
        await storage.put(key, [bytes(data)])

    asyncio.run(act())


def mirrored(make: Make, mirror: GatedStorage, recorder: Recorder, *steps: int) -> None:
    model = Toy()
    with make(mirror=mirror, model=model) as ckpt:
        for step in steps:
            train(ckpt, model, step)
            recorder.wait_for(TierDurable, steps.index(step) + 1)


@pytest.mark.parametrize("call", ["resume", "restore"])
def test_B20_damage_at_home_is_mended_from_the_mirror_and_nothing_of_it_is_shared(
    make: Make, store: GatedStorage, mirror: GatedStorage, recorder: Recorder, call: str
) -> None:
    mirrored(make, mirror, recorder, 1, 2)
    flip(plain(store), 2)
    model = Toy()
    ckpt = make(mirror=mirror, model=model)
    assert getattr(ckpt, call)().step == 2
    assert model.value == 2
    assert [(event.step, event.tier) for event in recorder.of(Damaged)] == [(2, "home")]
    assert [event.tier for event in recorder.of(Restored)] == ["mirror"]
    if call == "resume":
        ckpt.save(3).wait()  # the same weights, and yet not those that lie damaged at home
        ckpt.close()
        assert asyncckpt.load(plain(store), which=3).info.step == 3


def test_what_no_tier_has_sound_is_passed_over(
    make: Make, store: GatedStorage, mirror: GatedStorage, recorder: Recorder
) -> None:
    mirrored(make, mirror, recorder, 1, 2)
    for storage in (plain(store), plain(mirror)):
        flip(storage, 2)
    model = Toy()
    ckpt = make(mirror=mirror, model=model)
    assert ckpt.resume().step == 1
    assert model.value == 1
    assert [(event.step, event.tier) for event in recorder.of(Damaged)] == [(2, "mirror"), (2, "home")]
    assert [event.tier for event in recorder.of(Restored)] == ["home"]


def test_a_mirror_that_cannot_be_read_leaves_the_next_older_checkpoint(
    make: Make, store: GatedStorage, mirror: GatedStorage, recorder: Recorder
) -> None:
    mirrored(make, mirror, recorder, 1, 2)
    flip(plain(store), 2)
    for request in ("get", "list"):
        mirror.fail(request, "*", lambda: StorageDenied(13, "Permission denied"), times=1000)
    model = Toy()
    ckpt = make(mirror=mirror, model=model)
    assert ckpt.resume().step == 1
    assert model.value == 1


def test_damage_that_shows_while_objects_are_filled_is_mended_too(
    make: Make, tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, copies = tmp_path / "home", tmp_path / "copies"
    model = Toy()
    with make(root, mirror=copies, model=model) as ckpt:
        train(ckpt, model, 1)
    flip(LocalStorage(root), 1)  # a resume reads what lies on a disk once, straight into the objects
    found = Toy()
    ckpt = make(root, mirror=copies, model=found)
    assert ckpt.resume().step == 1
    assert found.value == 1
    assert [event.tier for event in recorder.of(Restored)] == ["mirror"]


def test_a_mirror_in_the_root_or_around_it_is_refused(tmp_path: Path) -> None:
    for root, inside in (("run", "run"), ("run", "run/mirror"), ("run/home", "run")):
        with pytest.raises(ValueError, match="lie in each other"):
            AsyncCheckpointer(tmp_path / root, mirror=tmp_path / inside, model=Toy())
    with pytest.raises(StorageError, match="no storage_options"):
        AsyncCheckpointer(tmp_path / "a", mirror=tmp_path / "b", model=Toy(), storage_options={"key": "x"})
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_no_other_process_can_have_is_a_visible_fallback(
    make: Make, tmp_path: Path, executor: str
) -> None:
    recorder = Recorder()
    ckpt = make(tmp_path / "home", mirror=MemoryStorage("m"), model=Toy(), listeners=[recorder])
    ckpt.save(1).wait()
    found = [event for event in recorder.of(Fallback) if event.feature == "executor"]
    assert len(found) == (executor == "process")
    assert all("no other process can have the storage at memory://m" in event.reason for event in found)


def test_a_service_that_takes_the_place_of_a_dead_one_mirrors_what_that_was_about_to(
    make: Make, mirror: GatedStorage, recorder: Recorder, executor: str
) -> None:
    if executor == "thread":
        pytest.skip("a thread ends with its process")
    from ..checkpointer.trainings import worker_of

    model = Toy()
    ckpt = make(mirror=mirror, model=model)
    gate = mirror.hold("put", "data/*.safetensors")
    train(ckpt, model, 1)
    gate.wait_reached()
    os.kill(worker_of(ckpt), signal.SIGKILL)
    gate.wait_reached(2)
    gate.open()
    recorder.wait_for(TierDurable)
    ckpt.close()
    assert sound(plain(mirror)) == [1]


@pytest.mark.kills
def test_a_training_that_is_killed_while_its_mirror_copies_goes_on_with_both(
    make: Make, mirror: GatedStorage, tmp_path: Path, executor: str, request: pytest.FixtureRequest
) -> None:
    if executor == "thread":
        pytest.skip("killed with its worker: test_mirroring")
    from ..executor.conftest import wait_for_workers
    from ..executor.victim import Counter

    root = tmp_path / "run"
    gate = mirror.hold("put", "data/*-step-2-*.safetensors")
    said = request.getfixturevalue("killed")("mirroring", mirror.url, mirror.name, root=root)
    assert said["said"] == [1, 2], said
    gate.open()
    wait_for_workers(root)
    recorder = Recorder()
    with AsyncCheckpointer(
        root, mirror=mirror, extra={"counter": Counter()}, executor="process", listeners=[recorder]
    ) as ckpt:
        assert ckpt.resume().step == 2
    assert [event.step for event in recorder.of(Resumed)] == [2]
    assert sound(LocalStorage(root)) == [1, 2]
    assert sound(plain(mirror)) == [1, 2]
    assert asyncckpt.load(mirror.url).info.step == 2
