"""What a restore finds with a local tier, what it finds without the root, and the local tier as a root of its own."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

import asyncckpt
from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError, SaveFailed, StorageDenied, TransientError
from asyncckpt.events import Damaged, Fallback, Restored, Restoring, TierDurable
from asyncckpt.fetching import progress
from asyncckpt.fetching.placing import Places
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.slow import GatedStorage

from ..checkpointer.conftest import Make
from ..checkpointer.trainings import Big, Recorder, Toy, steps
from .test_local_training import away
from .test_mirror_training import flip, plain, sound, train

pytestmark = pytest.mark.executors


def ahead(make: Make, store: GatedStorage, local: Path) -> None:
    """Step 1 is in both tiers, and the steps 2 and 3 on the local one only."""
    model = Toy()
    ckpt = make(local=local, model=model)
    train(ckpt, model, 1)
    store.fail("put", "*", away)
    for step in (2, 3):
        model.value = step
        handle = ckpt.save(step)
        handle.wait(60, tier="local")
        with pytest.raises(SaveFailed):
            handle.wait(60)
    ckpt.close()
    store.heal()


def test_a_restore_takes_what_the_root_has_not_got_yet_and_takes_nothing_away(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    ahead(make, store, tmp_path / "local")
    found = Toy()
    ckpt = make(local=tmp_path / "local", model=found)
    for which, step in (("latest", 3), (2, 2), (1, 1), ("00000002", 2)):
        assert ckpt.restore(which).step == found.value == step
        assert recorder.of(Restored)[-1].tier == ("home" if step == 1 else "local")
    assert steps(ckpt) == [1]
    assert sound(plain(store)) == [1]
    with pytest.raises(CheckpointNotFoundError):
        ckpt.restore(7)
    assert make(model=found).restore().step == 1


def test_a_damaged_one_is_told_and_the_roots_latest_taken(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    ahead(make, store, tmp_path / "local")
    for step in (2, 3):
        flip(LocalStorage(tmp_path / "local"), step)
    found = Toy()
    ckpt = make(local=tmp_path / "local", model=found)
    with pytest.raises(CheckpointCorruptError):
        ckpt.restore(3)
    assert ckpt.restore().step == found.value == 1
    assert {(event.step, event.tier) for event in recorder.of(Damaged)} >= {(2, "local"), (3, "local")}


@pytest.mark.executors("thread")
def test_damage_that_shows_only_when_a_restore_puts_it_back_is_that_of_its_own_tier(
    make: Make, tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sound when it was looked at, before anything was changed."""
    model = Big()
    with make(local=tmp_path / "local", model=model) as ckpt:
        train(ckpt, model, 1)
    found, check = Big(), Places.check

    def checked(places: Places) -> None:
        check(places)
        (pack,) = (tmp_path / "local").glob("data/*-step-1-*/*.safetensors")
        with pack.open("r+b") as file:  # the very file: it is open already
            file.seek(-1, os.SEEK_END)
            file.write(b"!")

    monkeypatch.setattr(Places, "check", checked)
    assert make(local=tmp_path / "local", model=found).restore(1).step == found.value == 1
    assert recorder.of(Restored)[-1].tier == "home"
    assert [(event.step, event.tier) for event in recorder.of(Damaged)] == [(1, "local")]


def test_what_was_read_of_a_damaged_one_counts_no_more_for_how_far_a_restore_is(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    model = Toy()
    with make(local=tmp_path / "local", model=model) as ckpt:
        train(ckpt, model, 1)
    flip(LocalStorage(tmp_path / "local"), 1)
    ckpt = make(local=tmp_path / "local", model=Toy())
    ckpt.restore()
    assert recorder.of(Restored)[-1].tier == "home"
    told = recorder.of(Restoring)[-1]
    assert told.done == told.total > 0


def test_without_the_root_a_restore_reads_the_local_tier_and_nothing_is_taken_or_saved(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    ahead(make, store, tmp_path / "local")
    local_before = sound(LocalStorage(tmp_path / "local"))
    for request in ("get", "list", "put", "head", "probe"):
        store.fail(request, "*", away)
    found = Toy()
    ckpt = make(local=tmp_path / "local", model=found)
    with pytest.raises(TransientError, match="the root is away") as raised:
        ckpt.resume()
    assert "restore() reads what is there, and takes nothing" in "".join(raised.value.__notes__)
    assert ckpt.restore().step == found.value == 3
    assert ckpt.restore(2).step == found.value == 2
    assert {event.feature for event in recorder.of(Fallback)} >= {"root"}
    with pytest.raises(SaveFailed, match="nothing is saved on the local tier before that is known"):
        ckpt.save(4).wait(60)
    ckpt.close()
    store.heal()
    assert sound(LocalStorage(tmp_path / "local")) == local_before
    with make(local=tmp_path / "local", model=found) as ckpt:
        assert ckpt.resume().step == 3


def test_a_root_that_refuses_is_an_error_whatever_the_local_tier_has(
    make: Make, store: GatedStorage, tmp_path: Path
) -> None:
    ahead(make, store, tmp_path / "local")
    store.fail("list", "*", lambda: StorageDenied(13, "no such bucket, or not yours"))
    ckpt = make(local=tmp_path / "local", model=Toy())
    for call in (ckpt.restore, ckpt.resume):
        with pytest.raises(StorageDenied, match="not yours"):
            call()


def test_a_training_that_has_resumed_goes_on_locally_while_the_root_is_away(
    make: Make, store: GatedStorage, tmp_path: Path, recorder: Recorder
) -> None:
    ahead(make, store, tmp_path / "local")
    model = Toy()
    ckpt = make(local=tmp_path / "local", model=model)
    assert ckpt.resume().step == 3
    for request in ("get", "list", "put", "head", "probe"):
        store.fail(request, "*", away)
    for step in (4, 5):
        model.value = step
        handle = ckpt.save(step)
        assert handle.wait(60, tier="local").step == step
        with pytest.raises(SaveFailed, match="the root is away"):
            handle.wait(60)
    store.heal()
    train(ckpt, model, 6)
    ckpt.close()
    assert sound(plain(store)) == [1, 3, 6]
    assert [event.step for event in recorder.of(TierDurable) if event.tier == "local"][-3:] == [4, 5, 6]


def test_what_is_being_restored_is_not_pruned_on_the_local_tier_meanwhile(
    make: Make, mirror: GatedStorage, recorder: Recorder
) -> None:
    model, found = Toy(), Toy()
    ckpt = make(local=mirror, model=model)
    train(ckpt, model, 1, 2)
    gate = mirror.hold("get", "data/*-step-1-*.safetensors")
    with ThreadPoolExecutor(1) as thread:
        restoring = thread.submit(ckpt.restore, 1)
        gate.wait_reached()
        for step in (3, 4, 5):
            ckpt.save(step).wait(60)
        gate.open()
        assert restoring.result(60).step == 1
    assert recorder.of(Restored)[-1].tier == "local"
    assert found.value == 0


def test_the_local_tier_is_a_root_of_its_own_for_whoever_only_reads(
    make: Make, store: GatedStorage, tmp_path: Path
) -> None:
    ahead(make, store, tmp_path / "local")
    local = str(tmp_path / "local")
    assert asyncckpt.load(local).info.step == 3
    assert asyncckpt.load(local, 2).state["model"]["weight"].unique().tolist() == [2]
    for words, said in (
        (["ls", local], "00000003"),
        (["show", f"{local}@2"], "step            2\n"),
        (["show", f"{local}@latest"], "step            3\n"),
        (["verify", local], "00000003  step 3  ok"),
    ):
        result = CliRunner().invoke(app, words)
        assert (result.exit_code, result.stderr) == (0, ""), words
        assert said in result.stdout
    assert sound(plain(store)) == [1]
