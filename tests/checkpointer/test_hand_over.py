"""A snapshot on its way from the training thread to copier and worker: whatever breaks there ends one save, once."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from asyncckpt import SavePolicy
from asyncckpt.errors import CheckpointerClosed, SaveFailed
from asyncckpt.events import Fallback
from asyncckpt.saves.saving import HandOver, Saver
from asyncckpt.staging.stager import Snapshot
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .conftest import Make
from .trainings import Recorder, Toy, Training, refuse_threads, steps

pytestmark = pytest.mark.executors


def test_an_interrupt_while_a_snapshot_is_superseded_ends_its_handle(
    make: Make, store: GatedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(snapshot: Snapshot, by_step: int) -> None:
        raise KeyboardInterrupt

    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1))
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        gate.wait_reached()
        old = ckpt.step(2)
        with monkeypatch.context() as patch:
            patch.setattr(Snapshot, "cancel", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ckpt.step(3)
        assert old.status == "superseded"
    ckpt.wait(PATIENCE)
    assert ckpt.save(4).wait(PATIENCE).step == 4
    assert steps(ckpt) == [1, 4]


def test_memory_that_cannot_be_faulted_in_ahead_fails_no_save(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_threads(monkeypatch, "asyncckpt-prefault")
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=2))
    assert ckpt.step(1) is None
    assert ckpt.step(2).wait().step == 2
    assert "prefault: staging memory is not faulted in ahead of its use: can't start new thread" in caplog.text
    assert [event.feature for event in recorder.of(Fallback)] == ["prefault"]


def test_the_copier_lets_the_arena_go_before_it_says_that_it_is_done(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a save that supersedes another would find the arena still leased, and be skipped itself.

    And before the save may become durable, or one that comes after that would be skipped.
    """
    real, seen = Snapshot.release, []

    def release(snapshot: Snapshot) -> None:
        if threading.current_thread().name == "asyncckpt-copy":
            seen.append((snapshot.copied.is_set(), snapshot.watermark.is_sealed))
        real(snapshot)

    monkeypatch.setattr(Snapshot, "release", release)
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, verify="off")
    ckpt.save(1).wait()
    ckpt.close()  # which waits for the copier too: the save may be durable before it has let go
    assert seen == [(False, False)]


def test_a_job_that_cannot_be_made_costs_no_generation(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError("no more")

    ckpt = make(model=Toy())
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "_job", no_memory)
        for step in (1, 2, 3):
            with pytest.raises(SaveFailed, match="no more"):
                ckpt.save(step).wait()
    assert ckpt.save(4, on_busy="skip").wait().step == 4


def test_a_job_that_could_not_be_submitted_cannot_be_taken_back() -> None:
    def closed() -> None:
        raise CheckpointerClosed("closed")

    hand = HandOver(cast("Any", SimpleNamespace(id="job")), cast("Any", None), cast("Any", None))
    with pytest.raises(CheckpointerClosed):
        hand.submit(closed)
    assert not hand.withdraw(lambda _: False)


def test_a_job_taken_back_is_not_submitted() -> None:
    hand = HandOver(cast("Any", SimpleNamespace(id="job")), cast("Any", None), cast("Any", None))
    assert hand.withdraw(lambda _: False)
    hand.submit(lambda: pytest.fail("submitted"))
