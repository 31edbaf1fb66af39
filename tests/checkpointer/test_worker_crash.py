"""P5: the background thread dies; its jobs say so, the next save gets a new thread, and nothing durable is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncckpt import SavePolicy
from asyncckpt.errors import Fenced, OutcomeUnknown, SaveFailed, WorkerCrashed
from asyncckpt.events import Durable, Event, Failed, Staged, Stalled
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Elsewhere, Recorder, Toy, Training, steps


def death() -> SystemExit:
    return SystemExit("the thread shall die")


@pytest.mark.parametrize("pattern", ["data/*.safetensors", "data/*/manifest.json", "commits/*", "latest"])
def test_P5_a_dead_worker_fails_its_jobs_and_the_next_save_works(
    make: Make, store: GatedStorage, recorder: Recorder, pattern: str
) -> None:
    toy = Toy()
    ckpt = make(model=toy, generations=3)
    ckpt.save(1).wait()
    ckpt.resume()  # it waits its turn: by then the hints of step 1 are written too
    toy.value = 2
    with store.hold("put", "data/*"):
        store.fail("put", pattern, death, times=1)
        handles = [ckpt.save(2), ckpt.save(3)]
        handles[1].wait_staged()  # and so has been handed over, to the thread that is to die
    for handle in handles:
        if handle.step == 2 and pattern == "latest":
            continue  # it was durable before the hint was written
        with pytest.raises(SaveFailed, match="the background worker ended before") as raised:
            handle.wait()
        assert isinstance(raised.value.__cause__, WorkerCrashed)
        assert isinstance(raised.value.__cause__.__cause__, SystemExit)
    assert ckpt.save(4).wait().step == 4
    assert steps(ckpt) == ([1, 2, 4] if pattern == "latest" else [1, 4])
    assert [event.phase for event in recorder.of(Failed)] == ["worker"] * (1 if pattern == "latest" else 2)


def test_P5_a_new_worker_takes_the_run_anew_and_keeps_what_the_first_one_knew(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), overwrite=True)
    ckpt.save(1).wait()
    for step in (2, 4, 6):
        store.fail("put", "data/*", death, times=1)
        with pytest.raises(SaveFailed):
            ckpt.save(step).wait()
        ckpt.save(step + 1).wait()
    assert steps(ckpt) == [1, 3, 5, 7]
    assert store.count("put", "data/*-i4-*") == 2


@pytest.mark.parametrize(("request_", "key"), [("put", "data/*"), ("reply", "commits/*")], ids=["crash", "unknown"])
def test_P5_a_run_that_somebody_else_has_taken_meanwhile_is_not_taken_back(
    make: Make, store: GatedStorage, request_: str, key: str
) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    store.fail(request_, key, death if request_ == "put" else unknown, times=1)
    store.fail("get", "commits/*", unknown)
    with pytest.raises(SaveFailed):
        ckpt.save(2).wait()
    store.heal()
    other = make(Elsewhere(store.inner), model=Toy())
    other.resume()
    other.save(3).wait()
    with pytest.raises(SaveFailed, match="was taken by incarnation 2") as raised:
        ckpt.save(4).wait()
    assert isinstance(raised.value.__cause__, Fenced)
    assert other.save(5).wait().step == 5


def unknown() -> OutcomeUnknown:
    return OutcomeUnknown("the reply was lost")


def test_P5_a_listener_that_exits_costs_no_checkpoint(make: Make) -> None:
    class Exits:
        def on_event(self, event: Event) -> None:
            if isinstance(event, Durable) and event.step == 2:
                raise SystemExit

    ckpt = make(model=Toy(), listeners=[Exits()])
    for step in (1, 2, 3):
        assert ckpt.save(step).wait().step == step
    assert steps(ckpt) == [1, 2, 3]


def test_P5_a_listener_that_is_interrupted_in_the_main_thread_interrupts_the_training(make: Make) -> None:
    class Interrupted:
        def on_event(self, event: Event) -> None:
            if isinstance(event, Stalled) and event.where == "call":
                raise KeyboardInterrupt

    ckpt = make(model=Toy(), listeners=[Interrupted()])
    with pytest.raises(KeyboardInterrupt):
        ckpt.save(1)
    ckpt.wait()
    assert steps(ckpt) == [1]


def test_P5_a_listener_that_exits_on_the_staging_thread_stops_no_later_snapshot(make: Make) -> None:
    class Exits:
        def on_event(self, event: Event) -> None:
            if isinstance(event, Staged):
                raise SystemExit

    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_steps=1), listeners=[Exits()])
    for step in range(1, 6):
        training.step()
        ckpt.step(step)
    ckpt.wait()
    assert steps(ckpt)[-1] == 5


def test_P5_a_restore_under_way_says_that_the_worker_died(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    gate = store.hold("get", "data/*")
    with ThreadPoolExecutor(1) as thread:
        restoring = thread.submit(ckpt.restore, 1)
        gate.wait_reached()
        store.fail("put", "data/*", death, times=1)
        with pytest.raises(SaveFailed):
            ckpt.save(2).wait()
        with pytest.raises(WorkerCrashed, match="ended"):
            restoring.result()
    gate.open()
    assert ckpt.restore(1).step == 1


def test_P5_a_read_that_kills_the_worker_says_so_too(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    store.fail("get", "data/*", death, times=1)
    with pytest.raises(WorkerCrashed):
        ckpt.restore(1)
    assert ckpt.restore(1).step == 1
    assert ckpt.save(2).wait().step == 2


def test_P5_reads_and_saves_at_the_moment_of_death_are_answered(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    with ThreadPoolExecutor(4) as threads:
        for round_ in range(10):
            store.fail("put", "data/*", death, times=1)
            reads = [threads.submit(ckpt.checkpoints) for _ in range(20)]
            save = ckpt.save(2 + round_)
            reads += [threads.submit(ckpt.checkpoints) for _ in range(20)]
            assert isinstance(_ended(save.wait), SaveFailed)
            for read in reads:
                assert isinstance(_ended(read.result), WorkerCrashed | list)
    ckpt.wait()
    assert steps(ckpt) == [1]


def _ended(call: object) -> object:
    try:
        return call()
    except (SaveFailed, WorkerCrashed) as error:
        return error
