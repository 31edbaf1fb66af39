"""Saves that fail: told once, on the right one; training goes on, and nothing half written is ever listed."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.errors import (
    Fenced,
    OutcomeUnknown,
    SaveFailed,
    StorageDenied,
    TornSnapshot,
    TransientError,
    UnsupportedState,
)
from asyncckpt.events import Durable, Failed, Staged
from asyncckpt.saves import handle
from asyncckpt.saves.handle import wait_all
from asyncckpt.saves.waiting import Waiting
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .conftest import Make
from .trainings import Recorder, Toy, Training, elsewhere, outcome, saved, start, steps

pytestmark = pytest.mark.executors

Error = Callable[[], Exception]


def full() -> StorageDenied:
    return StorageDenied(28, "No space left on device")


def keys(store: GatedStorage, prefix: str = "") -> list[str]:
    async def found() -> list[str]:
        return [info.key async for info in store.inner.list(prefix)]

    return asyncio.run(found())


@pytest.mark.parametrize(
    ("phase", "request_", "pattern"),
    [("write", "put", "data/*.safetensors"), ("commit", "put", "data/*/manifest.json"), ("commit", "put", "commits/*")],
    ids=["pack", "manifest", "record"],
)
def test_a_failed_save_is_reported_everywhere_and_leaves_nothing(
    make: Make,
    store: GatedStorage,
    recorder: Recorder,
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
    phase: str,
    request_: str,
    pattern: str,
) -> None:
    toy = Toy()
    ckpt = make(model=toy)
    ckpt.save(1).wait()
    store.fail(request_, pattern, full, times=1)
    toy.value = 2
    handle = ckpt.save(2)
    with pytest.raises(SaveFailed, match=f"save of step 2 failed \\({phase}\\).*No space left") as raised:
        handle.wait()
    assert isinstance(raised.value.__cause__, StorageDenied)
    assert raised.value.failures == {2: raised.value.__cause__}
    assert handle.status == "failed"
    assert ckpt.save(3).wait().step == 3
    assert steps(ckpt) == [1, 3]
    ckpt.close()
    assert not [key for key in keys(store, "data/") if "-step-2-" in key]
    (event,) = recorder.of(Failed)
    assert (event.step, event.phase, event.error) == (2, phase, raised.value.__cause__)
    assert registry.get_sample_value("asyncckpt_save_failures_total", {"phase": phase}) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [text for text in errors if "save of step 2 failed" in text and "training goes on" in text]


@pytest.mark.parametrize(("request_", "pattern"), [("probe", ""), ("put", "run.json"), ("put", "commits/*")])
def test_a_run_that_cannot_be_opened_fails_the_save_and_the_next_tries_again(
    make: Make, store: GatedStorage, recorder: Recorder, request_: str, pattern: str
) -> None:
    ckpt = make(model=Toy())
    store.fail(request_, pattern, full, times=1)
    with pytest.raises(SaveFailed, match=r"failed \(open\)"):
        ckpt.save(1).wait()
    assert ckpt.save(2).wait().step == 2
    assert [event.phase for event in recorder.of(Failed)] == ["open"]
    assert steps(ckpt) == [2]


def test_a_store_that_cannot_be_read_fails_the_save_and_not_the_call(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    store.fail("get", "run.json", full)
    handle = ckpt.save(1)
    with pytest.raises(SaveFailed, match="No space left"):
        handle.wait()
    store.heal()
    assert ckpt.save(2).wait().step == 2


def test_training_goes_on_through_failures_and_keeps_what_it_had(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_steps=1), on_busy="wait")
    store.fail("put", "data/*", full)
    for step in range(1, 6):
        training.step()
        ckpt.step(step)
    with pytest.raises(SaveFailed):
        ckpt.wait()
    store.heal()
    training.step()
    ckpt.step(6)
    ckpt.wait()
    assert steps(ckpt) == [6]


def test_a_failure_told_by_its_handle_is_told_no_more(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    store.fail("put", "data/*", full)
    with pytest.raises(SaveFailed):
        ckpt.save(1).wait()
    ckpt.wait()
    ckpt.close()


def test_a_failure_told_by_wait_is_told_no_more(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    store.fail("put", "data/*", full)
    ckpt.save(1)
    ckpt.save(2)
    with pytest.raises(SaveFailed, match="step 1, 2") as raised:
        ckpt.wait()
    assert list(raised.value.failures) == [1, 2]
    ckpt.wait()
    ckpt.close()


def test_close_raises_one_error_with_every_failure_nobody_was_told_of(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    store.fail("put", "data/*", full, times=3)
    with pytest.raises(SaveFailed):
        ckpt.save(1).wait()
    ckpt.save(2)
    ckpt.save(3)
    ckpt.save(4).wait()
    with pytest.raises(SaveFailed, match="2 save") as raised:
        ckpt.close()
    assert {step: type(error) for step, error in raised.value.failures.items()} == {2: StorageDenied, 3: StorageDenied}
    ckpt.close()


def fail_then_save(ckpt: AsyncCheckpointer, store: GatedStorage) -> None:
    """The save of step 1 has failed, which nobody was told, and that of step 2 is durable."""
    store.fail("put", "data/*-step-1-*", full)
    with store.hold("put", "run.json"):
        ckpt.save(1)
        second = ckpt.save(2)
    second.wait()


def test_on_failure_raise_raises_once_at_the_next_step(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), on_failure="raise")
    fail_then_save(ckpt, store)
    with pytest.raises(SaveFailed, match="step 1"):
        ckpt.step(3)
    ckpt.step(3)
    assert ckpt.save(4).wait().step == 4


def test_on_failure_raise_raises_at_save_and_never_where_one_reads(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), on_failure="raise")
    fail_then_save(ckpt, store)
    assert steps(ckpt) == [2]
    assert ckpt.restore("latest").step == 2
    assert ckpt.resume().step == 2
    with pytest.raises(SaveFailed, match="step 1"):
        ckpt.save(3)
    ckpt.wait()
    assert steps(ckpt) == [2, 3]  # raised for the earlier one: what this call was asked for is done all the same


@pytest.mark.executors("thread")
def test_leaving_with_never_replaces_the_exception_in_flight(
    store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    store.fail("put", "data/*", full)

    def train() -> None:
        with AsyncCheckpointer(store, model=Toy()) as ckpt:
            ckpt.save(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert "save(s) failed (step 1)" in caplog.text


def test_state_that_cannot_be_held_is_an_error_of_the_call_and_names_its_path(make: Make) -> None:
    class Odd(Toy):
        def get_extra_state(self) -> object:
            return {"socket": object()}

        def set_extra_state(self, state: object) -> None: ...

    ckpt = make(model=Odd(), save=SavePolicy(every_steps=1))
    with pytest.raises(UnsupportedState, match=r"model.*socket"):
        ckpt.save(1)
    with pytest.raises(UnsupportedState, match=r"model.*socket"):
        ckpt.step(2)
    ckpt.wait()


def test_a_snapshot_that_changes_while_it_is_copied_fails_and_says_how_to_prevent_it(
    make: Make, recorder: Recorder
) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, verify="always")
    handle = ckpt.save(1)
    handle.wait_staged()
    assert handle.wait().step == 1
    handle = ckpt.save(2)
    recorder.wait_for(Staged, 2)
    training.model.weight.data.add_(1)
    with pytest.raises(SaveFailed, match=r"model\.weight.*before_mutation") as raised:
        handle.wait()
    assert isinstance(raised.value.__cause__, TornSnapshot)


# -- somebody else has the run -----------------------------------------------------------------------------


def test_a_writer_that_was_fenced_says_by_whom_and_stops_for_good(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    saved(root, 1)
    old = make(root, model=Toy())
    assert old.resume().step == 1
    old.save(2).wait()
    elsewhere(monkeypatch)
    new = make(root, model=Toy())
    assert new.resume().step == 2
    late = old.save(3)
    with pytest.raises(SaveFailed, match=r"was taken by incarnation 3 \(process \d+ on") as raised:
        late.wait()
    assert isinstance(raised.value.__cause__, Fenced)
    with pytest.raises(SaveFailed, match="incarnation 3"):
        old.save(4).wait()
    assert new.save(5).wait().step == 5
    new.close()
    old.close()
    assert steps(make(root, model=Toy())) == [1, 2, 5]


TAKES_THE_RUN = """
import sys, torch, asyncckpt
model = torch.nn.Linear(2, 2)
with asyncckpt.AsyncCheckpointer(sys.argv[1], model=model) as ckpt:
    ckpt.resume()
    ckpt.save(7).wait()
"""


def test_a_second_process_takes_the_run_and_nothing_of_either_is_lost(tmp_path: Path, make: Make) -> None:
    import torch

    ckpt = make(tmp_path / "run", model=torch.nn.Linear(2, 2))
    ckpt.save(1).wait()
    process = start(TAKES_THE_RUN, tmp_path / "run")
    assert outcome(process)[0] == 0
    with pytest.raises(SaveFailed, match=f"process {process.pid} on"):
        ckpt.save(8).wait()
    assert steps(ckpt) == [1, 7]
    assert ckpt.restore(7).step == 7
    assert ckpt.restore(1).step == 1


# -- nobody knows whether the record stands ----------------------------------------------------------------


def unknown() -> OutcomeUnknown:
    return OutcomeUnknown("the reply was lost")


def test_a_lost_reply_is_settled_by_reading(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    store.fail("reply", "commits/*", unknown, times=1)
    assert ckpt.save(2).wait().step == 2


@pytest.mark.parametrize("reading", [lambda: TransientError("try later"), full], ids=["transient", "denied"])
@pytest.mark.parametrize("writing", [unknown, full], ids=["unknown", "denied"])
@pytest.mark.parametrize("request_", ["put", "reply"], ids=["not applied", "applied"])
def test_after_an_unknown_outcome_the_next_save_opens_anew_and_works(
    make: Make, store: GatedStorage, request_: str, writing: Error, reading: Error
) -> None:
    ckpt = make(model=Toy(), overwrite=True)
    ckpt.save(1).wait()

    def first() -> Exception:
        store.fail("put", "commits/*", writing)
        store.fail("get", "commits/*", reading)
        return unknown()

    store.fail(request_, "commits/*", first, times=1)
    with pytest.raises(SaveFailed) as raised:
        ckpt.save(2).wait()
    assert isinstance(raised.value.__cause__, OutcomeUnknown)
    store.heal()
    assert ckpt.save(3).wait().step == 3
    assert steps(ckpt) == ([1, 3] if request_ == "put" else [1, 2, 3])
    for step in steps(ckpt):
        assert ckpt.restore(step).step == step


def test_durable_is_told_once_for_each_checkpoint(
    make: Make, store: GatedStorage, recorder: Recorder, outcomes: Callable[[str], float]
) -> None:
    ckpt = make(model=Toy())
    store.fail("put", "data/*", full, times=1)
    handles = [ckpt.save(step) for step in (1, 2, 3)]
    with pytest.raises(SaveFailed):
        handles[0].wait()
    ckpt.close()
    assert [event.step for event in recorder.of(Durable)] == [2, 3]
    assert (outcomes("durable"), outcomes("failed")) == (2, 1)


def test_a_store_that_is_down_for_long_does_not_fill_the_memory(
    make: Make, store: GatedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "KEPT", 3)
    ckpt = make(model=Toy())
    store.fail("put", "data/*", full)
    failed = [ckpt.save(step) for step in range(1, 9)]
    wait_all(failed, Waiting(PATIENCE))  # which tells nobody
    store.heal()
    ckpt.save(9).wait()
    held = [each.step for each in ckpt._saver.handles]
    assert held == [6, 7, 8, 9]
    frames = [
        frame.f_locals
        for each in failed[:-1]
        for frame, _ in traceback.walk_tb(each.error.__traceback__ if each.error else None)
    ]
    assert all(frame == {} for frame in frames)
    with pytest.raises(SaveFailed, match=r"3 or more saves failed \(step 6, 7, 8\)"):
        ckpt.wait()


def test_what_a_save_holds_that_ends_just_as_the_next_one_is_made_is_let_go_by_the_one_after_that() -> None:
    failed = handle.SaveHandle(1)

    def fail(held: list[int]) -> None:
        try:
            raise full()
        except StorageDenied as error:
            failure = SaveFailed("the save of step 1 failed")
            failure.__cause__ = error
            failed._end("failed", error=failure)
            assert handle.remembered([failed]) == [failed]  # in the thread that trains, beside this one

    fail([1, 2, 3])
    assert handle.remembered([failed]) == [failed]
    assert failed.error is not None
    assert [frame.f_locals for frame, _ in traceback.walk_tb(failed.error.__traceback__)] == [{}]
