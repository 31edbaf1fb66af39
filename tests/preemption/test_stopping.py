"""What a notice does to a training, in one process: what is saved, what gives way, and how it leaves."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, MetricsConfig, Preempted, Preemption, RetentionPolicy, SavePolicy, load
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import PreemptionTimeoutError, SaveFailed, SaveSuperseded, StorageError, TransientError
from asyncckpt.events import Durable, Listeners, PreemptionEnded, PreemptionNoticed, PreemptionPlanned, Retained
from asyncckpt.lifecycle.stopping import urgency
from asyncckpt.preemption import plan
from asyncckpt.preemption.leaving import Leaving, _hasten
from asyncckpt.preemption.notice import Notice
from asyncckpt.preemption.plan import Plan
from asyncckpt.preemption.speed import Speed
from asyncckpt.preemption.stop import usable
from asyncckpt.saves.giving_way import GivingWay
from asyncckpt.saves.urgency import Urgency
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker.commitlog.ownership import Ownership

from ..checkpointer.scraping import scrape, value
from ..checkpointer.trainings import Recorder, Toy, once_it_waits, steps
from .conftest import Make


def notice(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def leave(ckpt: AsyncCheckpointer, step: int) -> Preempted:
    """Make `step` after a notice."""
    with pytest.raises(Preempted) as raised:
        ckpt.step(step)
    return raised.value


def measured(ckpt: AsyncCheckpointer, rate: float) -> None:
    """From now on the store is known to take so many bytes of state per second."""
    ckpt._stopping._speedometer._recent.extend([Speed(rate)] * 4)


def stateful() -> dict[str, Any]:
    """A model, and an optimizer that holds twice as much as that."""
    model = torch.nn.Linear(256, 256)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 256)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


# -- raise and flag --------------------------------------------------------------------------------------------


def test_the_next_step_saves_and_raises_with_the_conventional_status(
    make: Make, store: GatedStorage, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    ckpt = make(model=Toy(3))
    assert ckpt.step(1) is None
    notice()
    left = leave(ckpt, 2)
    assert (left.code, left.step, left.source, left.saved) == (143, 2, "SIGTERM", 2)
    assert str(left) == "preempted (SIGTERM) after step 2; step 2 is saved; exit status 143"
    assert load(store).state["model"]["weight"].unique().tolist() == [3]
    (noticed,), (planned,), (ended,) = map(recorder.of, (PreemptionNoticed, PreemptionPlanned, PreemptionEnded))
    assert (noticed.step, noticed.source) == (2, "SIGTERM")
    assert 0 < noticed.seconds <= 30
    assert (planned.decision, planned.expected) == ("save", None)
    assert planned.seconds == usable(noticed.seconds) <= 28
    assert (ended.step, ended.outcome) == (2, "durable")
    assert f"SIGTERM: this process will be killed in {noticed.seconds:.1f} s" in caplog.text
    assert "after step 2: the whole state is saved. nothing was measured yet" in caplog.text
    assert "preempted after step 2: durable" in caplog.text
    assert ckpt.should_stop is False


def test_with_flag_the_handle_is_returned_and_training_decides(make: Make, recorder: Recorder) -> None:
    ckpt = make(model=Toy(), preemption=Preemption(exit="flag"))
    ckpt.step(1)
    assert ckpt.should_stop is False
    notice(signal.SIGUSR2)
    handle = ckpt.step(2)
    assert ckpt.should_stop is True
    assert handle.wait().step == 2
    assert recorder.wait_for(PreemptionEnded)[0].outcome == "durable"
    assert ckpt.step(3) is None
    ckpt.close()
    assert steps(make(ckpt._storage.inner, model=Toy(), preemption=None)) == [2]


@pytest.mark.parametrize("exit_", ["raise", "flag"])
def test_before_anything_was_measured_the_weights_are_durable_first_and_then_the_whole_state(
    make: Make, store: GatedStorage, recorder: Recorder, caplog: pytest.LogCaptureFixture, exit_: Any
) -> None:
    objects = stateful()
    ckpt = make(**objects, preemption=Preemption(exit=exit_))
    notice()
    if exit_ == "raise":
        assert leave(ckpt, 1).saved == 1
    else:
        assert not ckpt.step(1).wait().partial
    assert recorder.wait_for(PreemptionEnded)[0].outcome == "durable"
    part, whole = recorder.of(Durable)
    assert (part.partial, whole.partial) == (("optimizer",), ())
    assert whole.written < whole.bytes * 0.7  # it shares the weights with the other
    (info,) = ckpt.checkpoints()
    assert (info.step, info.partial, info.seq) == (1, False, 2)
    assert "after step 1: a part of the state is saved, without optimizer, and then the whole state" in caplog.text
    assert torch.equal(load(store).state["model"]["weight"], objects["model"].weight)


def test_what_was_durable_of_a_state_whose_rest_is_not_is_told_as_that(
    make: Make, store: GatedStorage, recorder: Recorder
) -> None:
    store.fail("put", "data/00000002*", lambda: TransientError("the store is away"))
    ckpt = make(**stateful())
    notice()
    left = leave(ckpt, 1)
    assert (left.saved, recorder.of(PreemptionEnded)[0].outcome) == (None, "partial")
    assert "the store is away" in str(left.__cause__)
    store.heal()
    (info,) = ckpt.checkpoints()
    assert (info.step, info.partial) == (1, True)


def test_after_a_failure_of_the_store_what_was_measured_counts_no_more_until_it_takes_a_save(
    make: Make, store: GatedStorage, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    ckpt = make(**stateful())
    ckpt.save(1).wait()
    store.fail("put", "data/*", lambda: TransientError("the store is away"), times=1)
    with pytest.raises(SaveFailed):
        ckpt.save(2).wait()
    notice()
    assert leave(ckpt, 3).saved == 3
    assert "what was measured before that is not counted on" in caplog.text
    assert "the store is away" in recorder.of(PreemptionPlanned)[0].reasons[0]
    assert [event.partial for event in recorder.of(Durable)] == [(), ("optimizer",), ()]
    assert steps(ckpt) == [1, 3]


def test_metrics_count_notice_decision_and_outcome(make: Make) -> None:
    registry = CollectorRegistry()
    ckpt = make(model=Toy(), metrics=MetricsConfig(port=None, registry=registry))
    notice()
    leave(ckpt, 1)
    found = scrape(registry)
    assert value(found, "asyncckpt_preemption_notices_total", source="SIGTERM") == 1
    assert value(found, "asyncckpt_preemption_decisions_total", decision="save") == 1
    assert value(found, "asyncckpt_preemption_outcomes_total", outcome="durable") == 1
    assert 0 < value(found, "asyncckpt_preemption_left_seconds") <= 30


def test_who_catches_it_may_train_on(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1))
    notice()
    leave(ckpt, 1)
    ckpt.step(2).wait()
    assert steps(ckpt) == [1, 2]


def test_the_failure_of_an_emergency_save_is_the_cause_and_no_reason_to_stay(
    make: Make, store: GatedStorage, recorder: Recorder
) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    store.fail("put", "data/*", lambda: TransientError("the store is away"))
    notice()
    left = leave(ckpt, 2)
    assert (left.code, left.saved) == (143, 1)
    assert "the store is away" in str(left.__cause__)
    assert recorder.of(PreemptionEnded)[0].outcome == "failed"
    store.heal()
    assert steps(ckpt) == [1]


# -- the deadline ----------------------------------------------------------------------------------------------


def test_E26_a_late_emergency_save_is_given_up_in_time_and_the_one_before_is_sound(
    make: Make, store: GatedStorage, recorder: Recorder
) -> None:
    ckpt = make(model=Toy(1), preemption=Preemption(deadline=0.5))
    ckpt.save(1).wait()
    gate = store.hold("put", "data/*")
    before = time.monotonic()
    notice()
    began = time.monotonic()
    left = leave(ckpt, 2)
    assert before < ckpt._stopping.ends() < began + 0.5  # something is left for the interpreter
    with pytest.raises(SaveFailed, match=r"unfinished: steps \[2\]"):
        ckpt.close()
    assert time.monotonic() - began < 30
    assert isinstance(left.__cause__, PreemptionTimeoutError)
    assert isinstance(left.__cause__, TimeoutError)
    assert recorder.of(PreemptionEnded)[0].outcome == "late"
    assert steps(AsyncCheckpointer(store.inner, model=Toy())) == [1]
    assert load(store.inner, 1).state["model"]["weight"].unique().tolist() == [1]
    gate.open()


def test_E26_who_waits_is_let_go_at_the_deadline_in_any_thread(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    with store.hold("put", "data/*"):
        handle = ckpt.save(1, emergency=True, deadline=0.2)
        while handle.status != "writing":
            time.sleep(0.001)
        raised: list[BaseException] = []

        def wait() -> None:
            for call in (handle.wait, lambda: handle.wait(60)):
                try:
                    call()
                except PreemptionTimeoutError as error:
                    raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
        with pytest.raises(PreemptionTimeoutError, match="step 1 was still writing at its deadline"):
            handle.wait()
        assert len(raised) == 2
    deadline = time.monotonic() + 60
    while not handle.done():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert handle.wait().step == 1  # late is not lost


@pytest.mark.parametrize("call", ["handle", "another thread", "wait", "resume", "prune"])
def test_who_waits_when_the_notice_comes_is_let_go_in_time(make: Make, store: GatedStorage, call: str) -> None:
    ckpt = make(model=Toy(1), preemption=Preemption(deadline=0.5))
    ckpt.save(1).wait()
    with store.hold("put", "data/*") as gate:
        handle = ckpt.save(2)
        gate.wait_reached()
        assert handle.id == "00000002"  # it is said to be written
        killer = threading.Timer(0.05, notice)  # most likely once it waits; before, it is the same
        killer.start()
        calls = {"handle": handle.wait, "wait": ckpt.wait, "resume": ckpt.resume, "prune": ckpt.prune}
        if call == "another thread":
            raised: list[BaseException] = []

            def wait() -> None:
                try:
                    handle.wait(60)
                except PreemptionTimeoutError as error:
                    raised.append(error)

            waiting = threading.Thread(target=wait)
            waiting.start()
            while waiting.is_alive():  # a signal that comes just before this thread waits does not wake it
                waiting.join(0.1)
            assert len(raised) == 1
        else:
            with pytest.raises(PreemptionTimeoutError, match=r"killed|step 2 was still writing at its deadline"):
                calls[call]()
        killer.join()
    assert handle.wait().step == 2  # late is not lost: that notice is over, and nobody was killed


def test_once_everybody_is_let_go_nobody_begins_to_wait(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(1), preemption=Preemption(deadline=60))
    with store.hold("put", "data/*"):
        ckpt.save(1)
        store_is_reached(store)
        ckpt._stopping._let_go_at = time.monotonic()
        ckpt._stopping._killed_at = time.monotonic() + 3600
        with pytest.raises(PreemptionTimeoutError, match=r"still under way: steps \[1\]"):
            ckpt.wait()
        with pytest.raises(SaveFailed, match=r"unfinished: steps \[1\]"):
            ckpt.close()


def test_who_would_be_killed_before_the_last_garbage_is_found_looks_for_none() -> None:
    before = gc.get_freeze_count()
    _hasten(time.monotonic() + 3600)
    assert gc.get_freeze_count() == before
    _hasten(time.monotonic())
    assert gc.get_freeze_count() > before
    gc.unfreeze()


def test_a_tally_that_hangs_keeps_nobody_from_leaving() -> None:
    counted = threading.Event()
    leaving = Leaving(Preemption(max_preemptions=1), lambda: counted.wait(120), time.monotonic(), is_leader=True)
    leaving.settle(0.0)
    assert not leaving.is_exceeded
    assert leaving.code(signal.SIGTERM) == 143
    counted.set()


def test_a_notice_while_it_is_closed_ends_that_in_time(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(1), preemption=Preemption(deadline=0.5))
    ckpt.save(1).wait()
    gate = store.hold("put", "data/*")
    ckpt.save(2)
    gate.wait_reached()
    killer = threading.Timer(0.05, notice)
    killer.start()
    with pytest.raises(SaveFailed, match=r"unfinished: steps \[2\]"):
        ckpt.close()  # for ten minutes, else
    killer.join()
    assert steps(AsyncCheckpointer(store.inner, model=Toy())) == [1]
    gate.open()


def test_no_memory_before_the_deadline_is_the_same_error(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), generations=1)
    with store.hold("put", "data/*"):
        ckpt.save(1)
        store_is_reached(store)
        with pytest.raises(PreemptionTimeoutError, match="no memory came free before the deadline"):
            ckpt.save(2, emergency=True, deadline=0.2).wait()


def test_who_waits_for_memory_when_the_notice_comes_is_let_go_in_time(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), generations=1, preemption=Preemption(deadline=0.5))
    with store.hold("put", "data/*"):
        first = ckpt.save(1)
        store_is_reached(store)
        killer = threading.Timer(0.05, notice)  # most likely once it waits; before, it is the same
        killer.start()
        with pytest.raises(PreemptionTimeoutError, match="step 2 was not saved: no memory came free"):
            ckpt.save(2).wait()
        killer.join()
    assert first.wait().step == 1


def store_is_reached(store: GatedStorage) -> None:
    """Return once a pack is being written."""
    deadline = time.monotonic() + 60
    while not store.count("put", "data/*"):
        assert time.monotonic() < deadline
        time.sleep(0.001)


# -- what gives way --------------------------------------------------------------------------------------------


def test_what_was_not_begun_gives_way_and_an_emergency_gives_way_to_nothing(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), generations=3, save=SavePolicy(every_steps=1))
    with store.hold("put", "data/*"):
        first = ckpt.save(1)
        store_is_reached(store)
        second = ckpt.save(2)
        third = ckpt.save(3, emergency=True, deadline=60)
        fourth = ckpt.step(4)
        assert second.status == "superseded"
        assert third.status == "staging"
    for handle in (first, third, fourth):
        handle.wait()
    with pytest.raises(SaveSuperseded, match="step 3"):
        second.wait()
    assert steps(ckpt) == [1, 3, 4]


def test_what_is_being_written_is_given_up_where_there_is_time_for_one_only(
    make: Make, store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    ckpt = make(model=Toy(7))
    ckpt.save(1).wait()
    measured(ckpt, sum(ckpt._saver.sizes().values()) / 40)  # 40 s for one, with what is certain to be added 50
    with store.hold("put", "data/00000002*"):
        second = ckpt.save(2)
        assert second.id == "00000002"
        third = ckpt.save(3, emergency=True, deadline=60)
        assert third.wait().step == 3
        with pytest.raises(SaveSuperseded, match="step 3"):
            second.wait()
    assert "the whole state is saved, in place of what is being written" in caplog.text
    assert steps(ckpt) == [1, 3]
    assert [call for call in store.calls if call[0] == "delete" and "00000002" in call[1]] == []


def test_what_keeps_the_memory_for_longer_than_was_planned_gives_way_too(
    make: Make, store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    before = time.monotonic()
    planned = urgency(Plan("save", takes_over=True, waits=5.0), before + 9)
    assert before + 5 <= planned.memory_by <= time.monotonic() + 5
    ckpt = make(model=Toy(1), generations=1)
    ckpt.save(1).wait()
    with store.hold("put", "data/00000002*"):
        second = ckpt.save(2)
        assert second.id == "00000002"
        now = time.monotonic()
        third = ckpt._asking.save_now(3, None, None, replace(planned, deadline=now + 60, memory_by=now))
        assert third.wait().step == 3
        with pytest.raises(SaveSuperseded, match="step 3"):
            second.wait()
    assert "step 3 has waited for memory for as long as there was time" in caplog.text
    assert steps(ckpt) == [1, 3]


@pytest.mark.parametrize("deadline", [None, 60])
def test_what_is_queued_before_a_save_that_hangs_gives_way_to_who_needs_the_memory(
    make: Make, store: GatedStorage, deadline: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LEAST", 0.0)
    ckpt = make(model=Toy(1))
    ckpt.save(1).wait()
    measured(ckpt, 1e12)
    with store.hold("put", "data/00000002*"):
        second = ckpt.save(2)
        assert second.id == "00000002"
        third = ckpt.save(3)
        assert ckpt.save(4, emergency=True, deadline=deadline).wait().step == 4
    assert (second.status, third.status) == ("superseded", "superseded")
    assert steps(ckpt) == [1, 4]


def test_what_is_being_written_is_finished_where_there_is_time_for_both(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(7))
    ckpt.save(1).wait()
    measured(ckpt, sum(ckpt._saver.sizes().values()) / 40)
    with store.hold("put", "data/00000002*"):
        second = ckpt.save(2)
        assert second.id == "00000002"
        third = ckpt.save(3, emergency=True, deadline=110)
        assert second.status == "writing"
    assert (second.wait().step, third.wait().step) == (2, 3)


def test_a_save_under_way_is_waited_for_where_no_new_one_fits(make: Make, recorder: Recorder) -> None:
    toy = Toy(1)
    store = GatedStorage(MemoryStorage("memory-finish"))
    ckpt = make(store, extra={"toy": toy}, preemption=Preemption(deadline=20))
    ckpt.save(1).wait()
    size = sum(ckpt._saver.sizes().values())
    measured(ckpt, size / 100)
    gate = store.hold("put", "data/*")
    handle = ckpt.save(2)
    store_is_reached(store)
    while handle.began is None:
        time.sleep(0.001)
    handle.began -= 200  # it has been written for so long that it must be nearly done
    notice()
    opening = once_it_waits("_outcome", gate.open)
    left = leave(ckpt, 3)
    opening.join()
    assert (left.saved, recorder.of(PreemptionPlanned)[0].decision) == (2, "finish")
    assert recorder.of(PreemptionEnded)[0].outcome == "durable"


def test_retention_and_deletion_are_left_to_later(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), keep=RetentionPolicy(last=1))
    for step in (1, 2):
        ckpt.save(step).wait()
    ckpt.wait()
    store.calls.clear()
    ckpt.save(3, emergency=True).wait()
    ckpt.wait()
    assert store.count("delete") == 0
    assert steps(ckpt) == [2, 3]
    ckpt.save(4).wait()
    ckpt.wait()
    assert steps(ckpt) == [4]


def test_deletion_under_way_is_given_up(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), keep=RetentionPolicy(last=1))
    with store.hold("delete") as gate:
        for step in (1, 2, 3):
            ckpt.save(step).wait()
        gate.wait_reached()
        ckpt.save(4)  # what follows its commit waits for that deletion
        assert ckpt.save(5, emergency=True, deadline=60).wait().step == 5
    ckpt.save(6).wait()
    ckpt.wait()
    assert steps(ckpt) == [6]


def test_the_sweep_of_the_start_is_given_up(make: Make, store: GatedStorage, recorder: Recorder) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    ckpt.close()
    again = make(store, model=Toy())
    with store.hold("list", "data/") as gate:
        again.resume()
        gate.wait_reached()
        again.save(2)
        recorder.wait_for(Retained, 3)  # what follows that commit waits for the sweep from here on
        assert again.save(3, emergency=True, deadline=60).wait().step == 3
        again.close()


def test_a_sweep_that_is_given_up_before_it_has_begun_keeps_nobody_waiting() -> None:
    async def give_up() -> None:
        ownership = Ownership(Catalog(MemoryStorage()), Listeners(), SYSTEM_CLOCK)
        await ownership.take()
        ownership.hurry()
        await asyncio.wait_for(ownership.sweep_planned(), 60)
        await ownership.leave()

    asyncio.run(give_up())


def test_an_emergency_does_not_give_way_to_another(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), generations=3)
    with store.hold("put", "data/*"):
        ckpt.save(1)
        store_is_reached(store)
        handles = [ckpt.save(step, emergency=True, deadline=60) for step in (2, 3)]
    assert [handle.wait().step for handle in handles] == [2, 3]


def test_a_process_that_was_not_killed_in_time_takes_as_much_time_again(
    make: Make, store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    ckpt = make(model=Toy(), preemption=Preemption(deadline=30))
    ckpt._stopping._notices.give(Notice("SIGTERM", time.monotonic() - 5, signal.SIGTERM))
    assert leave(ckpt, 1).saved == 1
    assert "this process is not killed yet" in caplog.text


def test_P8_an_emergency_save_that_is_cut_off_at_any_request_lists_nothing_partial(tmp_path: Path) -> None:
    """Packs, manifest, record, in that order: whatever the last request was, the one before is the latest."""
    requests = 0
    for cut in range(100):
        inner = MemoryStorage(f"{tmp_path}-{cut}")
        store = GatedStorage(inner)
        ckpt = AsyncCheckpointer(store, model=Toy(1))
        ckpt.save(1).wait()
        ckpt.wait()
        done = len(store.calls)
        gates = _From(store, cut)
        handle = ckpt.save(2, emergency=True, deadline=60)
        if not gates.wait_until_held_or(handle):
            requests = len(store.calls) - done
            gates.release()
            ckpt.close()
            break
        there = AsyncCheckpointer(_copy(inner), model=Toy())
        listed = there.checkpoints()
        assert [info.partial for info in listed] == [False] * len(listed)
        assert steps(listed) in ([1], [1, 2])
        assert there.restore().step == listed[-1].step
        there.close()
        gates.release()
        ckpt.close()
    assert requests >= 3


def test_P8_what_is_given_up_for_its_memory_is_listed_whole_or_not_at_all_at_whatever_request_it_is(
    tmp_path: Path,
) -> None:
    ended = []
    for cut in range(100):
        inner, model = MemoryStorage(f"{tmp_path}-{cut}"), Toy(1)
        store = GatedStorage(inner)
        ckpt = AsyncCheckpointer(store, model=model, generations=1)
        ckpt.save(1).wait()
        ckpt.wait()
        gates = _From(store, cut)
        model.value = 2
        second = ckpt.save(2)
        is_held = gates.wait_until_held_or(second)
        if is_held:
            model.value = 3
            _let_through_then(ckpt._saver._giving_way, gates.release)
            hasty = Urgency(deadline=time.monotonic() + 60, memory_by=time.monotonic())
            assert ckpt._asking.save_now(3, None, None, hasty).wait().step == 3
        gates.release()
        ckpt.close()
        if not is_held:
            break
        ended.append(second.status)
        found = Toy()
        there = AsyncCheckpointer(inner, model=found)
        assert steps(there) == ([1, 2, 3] if second.status == "durable" else [1, 3])
        for step in steps(there):
            assert there.restore(step).step == found.value == step
        there.close()
    assert ended == sorted(ended, reverse=True), "from some request on it is too late to give it up"
    assert {*ended} == {"superseded", "durable"}


def _let_through_then(giving_way: GivingWay, release: Callable[[], None]) -> None:
    """As soon as the saves that are under way were given up, nothing is held any more."""
    give_up = giving_way.for_memory

    def for_memory(step: int) -> None:
        give_up(step)
        release()

    mock.patch.object(giving_way, "for_memory", for_memory).start()


class _From:
    """Holds every request of `store` from number `first` on, counted from now."""

    def __init__(self, store: GatedStorage, first: int) -> None:
        self._count = first
        self._held = threading.Event()
        self._open = threading.Event()
        arrive = store._arrive

        async def arriving(request: Any, key: str) -> None:
            if self._count <= 0 and not self._open.is_set():
                self._held.set()
                await asyncio.to_thread(self._open.wait)
            self._count -= 1
            await arrive(request, key)

        mock.patch.object(store, "_arrive", arriving).start()

    def wait_until_held_or(self, handle: Any) -> bool:
        """Whether it was held before the save was durable."""
        while not (self._held.is_set() or handle.done()):
            time.sleep(0.0005)
        return self._held.is_set() and not handle.done()

    def release(self) -> None:
        self._open.set()


def _copy(inner: MemoryStorage) -> MemoryStorage:
    copy = MemoryStorage(f"{inner.url}-copy")
    copy._objects = dict(inner._objects)
    return copy


# -- how the job comes back ------------------------------------------------------------------------------------


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scontrol that writes down what it was called with."""
    log, folder = tmp_path / "scontrol.log", tmp_path / "bin"
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return log


@pytest.mark.parametrize(
    ("array", "requeue", "called"),
    [
        (None, "scontrol", "requeue 4711\n"),
        (("12", "3"), "scontrol", "requeue 12_3\n"),
        (None, "auto", "requeue 4711\n"),
        (None, "none", ""),
        (None, "submitit", ""),
    ],
)
def test_E33_the_job_is_put_back_once(
    make: Make,
    scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
    array: tuple[str, str] | None,
    requeue: str,
    called: str,
) -> None:
    if array is not None:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array[0])
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", array[1])
    ckpt = make(model=Toy(), preemption=Preemption(requeue=requeue))
    notice(signal.SIGUSR1)
    assert leave(ckpt, 1).code == 128 + signal.SIGUSR1
    assert (scontrol.read_text() if scontrol.exists() else "") == called


def test_a_scontrol_that_fails_is_told_of_and_the_process_leaves(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", "/nowhere")
    ckpt = make(model=Toy(), preemption=Preemption(requeue="scontrol"))
    notice()
    assert leave(ckpt, 1).code == 143
    assert "scontrol requeue 4711 failed" in caplog.text


def test_E6_the_fourth_preemption_of_three_is_the_last_and_is_counted_in_the_run(
    make: Make, store: GatedStorage, scontrol: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codes = []
    for number in range(1, 5):
        ckpt = make(store, model=Toy(), preemption=Preemption(requeue="scontrol", max_preemptions=3))
        state = ckpt.resume()
        assert (state.step if state else 0) == number - 1
        notice()
        codes.append(leave(ckpt, number).code)
        ckpt.close()
    assert codes == [143, 143, 143, 1]
    assert scontrol.read_text() == "requeue 4711\n" * 3
    assert "preemption number 4, and max_preemptions=3: the job is not put back" in caplog.text
    anew = make(store, model=Toy(), overwrite=True, preemption=Preemption(max_preemptions=3))
    notice()
    assert leave(anew, 9).code == 143


def test_E6_a_preemption_counts_also_where_its_save_sweeps_the_tally_away(make: Make, store: GatedStorage) -> None:
    codes = []
    for number in (1, 2):
        ckpt = make(store, model=Toy(), preemption=Preemption(max_preemptions=1))
        ckpt.resume()
        store.fail("put", "preemptions", lambda: StorageError("the temporary is gone"), times=1)
        notice()
        codes.append(leave(ckpt, number).code)
        ckpt.close()
    assert codes == [143, 1]


def test_submitits_handler_is_called_once_the_save_is_durable_and_nobody_else_puts_the_job_back(
    make: Make, scontrol: Path
) -> None:
    calls: list[list[int]] = []

    class SignalHandler:
        def checkpoint_and_try_requeue(self, number: int, frame: object) -> None:
            calls.append(steps(ckpt))
            sys.exit(-1)

    SignalHandler.__module__ = "submitit.core.job_environment"
    handler = SignalHandler()
    signal.signal(signal.SIGUSR2, handler.checkpoint_and_try_requeue)
    ckpt = make(model=Toy(), preemption=Preemption(requeue="auto"))
    notice(signal.SIGUSR2)
    assert calls == []
    with pytest.raises(SystemExit) as raised:
        ckpt.step(1)
    assert (raised.value.code, calls) == (-1, [[1]])
    assert not scontrol.exists()
    ckpt.close()
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


def test_a_run_of_weights_and_biases_is_marked_where_there_is_one_and_stops_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    marked: list[str] = []

    def mark_preempting() -> None:
        marked.append("marked")
        raise OSError("offline")

    for run in (None, SimpleNamespace(mark_preempting=mark_preempting)):
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))
        ckpt = make(MemoryStorage(f"memory-{run}"), model=Toy())
        notice()
        assert leave(ckpt, 1).saved == 1
        ckpt.close()
    assert marked == ["marked"]
    assert "was not marked as preempting: OSError('offline')" in caplog.text


# -- what is asked for by hand ---------------------------------------------------------------------------------


def test_E17_an_emergency_by_hand_bypasses_the_policy_and_is_awaited_within_its_deadline(make: Make) -> None:
    ckpt = make(model=Toy(), preemption=None)
    info = ckpt.save(5, emergency=True, deadline=30).wait()
    assert (info.step, info.partial) == (5, False)
    assert ckpt.save(6, emergency=True).wait().step == 6


def test_a_loop_that_saves_each_step_by_hand_hears_a_notice(make: Make) -> None:
    ckpt = make(model=Toy())
    assert ckpt.save(1).wait().step == 1
    assert ckpt.step(1) is None
    notice()
    assert ckpt.step(1) is None, "each is decided once"
    assert ckpt.save(2).wait().step == 2
    left = leave(ckpt, 2)
    assert (left.step, left.saved) == (2, 2)
    assert steps(ckpt) == [1, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"deadline": 3}, r"belongs to save\(emergency=True\)"),
        ({"emergency": True, "deadline": 0}, r"save\(deadline=0\): give the seconds"),
        ({"emergency": True, "on_busy": "skip"}, "always waits for its turn"),
    ],
)
def test_an_emergency_that_means_nothing_is_refused(make: Make, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(model=Toy()).save(1, **options)


def test_nothing_is_handled_unless_it_is_asked_for(make: Make) -> None:
    make(model=Toy(), preemption=None)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_nothing_else_is_logged_in_a_handler(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ckpt = make(model=Toy())
    caplog.clear()
    notice()
    here = threading.get_ident()  # in other threads event loops begin, which say so
    assert [record for record in caplog.records if record.thread == here] == []
    leave(ckpt, 1)
