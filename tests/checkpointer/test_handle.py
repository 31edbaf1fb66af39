"""SaveHandle: the future of one save, from any thread."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from asyncckpt import CheckpointInfo, SaveHandle, SavePolicy, load
from asyncckpt.errors import SaveFailed, SaveSkipped, SaveSuperseded, StorageDenied
from asyncckpt.saves.handle import untold
from asyncckpt.staging.device import same_bits
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .conftest import Make
from .trainings import Toy, Training, calls_of

pytestmark = pytest.mark.executors


def full() -> StorageDenied:
    return StorageDenied(28, "No space left on device")


def test_the_statuses_of_a_save_in_order(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    with store.hold("put", "run.json") as opening, store.hold("put", "data/*") as writing:
        handle = ckpt.save(5)
        opening.wait_reached()
        assert (handle.status, handle.done(), repr(handle)) == ("staging", False, "<SaveHandle step=5 staging>")
        opening.open()
        writing.wait_reached()
        assert (handle.id, handle.status, handle.done()) == ("00000001", "writing", False)  # the id is waited for
        assert repr(handle) == "<SaveHandle step=5 writing>"
    info = handle.wait()
    assert isinstance(info, CheckpointInfo)
    assert (info.id, info.step, handle.step) == (handle.id, 5, 5)
    assert (handle.status, handle.done(), handle.error) == ("durable", True, None)
    assert repr(handle) == "<SaveHandle step=5 durable>"


def test_the_id_is_waited_for(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    with ThreadPoolExecutor(1) as thread:
        with store.hold("put", "run.json") as gate:
            handle = ckpt.save(1)
            gate.wait_reached()
            asking = thread.submit(lambda: handle.id)
            assert not asking.done()
        assert asking.result() == "00000001"


def test_waiting_has_a_limit_and_says_where_the_save_is(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    with store.hold("put", "data/*") as gate:
        handle = ckpt.save(3)
        gate.wait_reached()
        assert handle.id  # a worker process has said that it is begun
        with pytest.raises(TimeoutError, match=r"step 3 was still writing after 0\.01 s"):
            handle.wait(0.01)
        with pytest.raises(TimeoutError, match=r"steps \[3\]"):
            ckpt.wait(0.01)
    assert handle.wait().step == 3


def test_a_snapshot_is_complete_long_before_it_is_written(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    with store.hold("put"):
        handle = ckpt.save(1)
        handle.wait_staged()
        assert handle.status == "staging"
    handle.wait()
    handle.wait_staged()


def test_a_handle_can_be_awaited(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    store.fail("put", "data/*-step-2-*", full)

    async def train() -> tuple[int, list[object]]:
        first = await ckpt.save(1)
        handles = [ckpt.save(2), ckpt.save(3)]
        return first.step, await asyncio.gather(*handles, return_exceptions=True)

    first, (second, third) = asyncio.run(train())
    assert (first, type(second), third.step) == (1, SaveFailed, 3)


def test_a_failed_handle_raises_for_everyone_who_waits(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    store.fail("put", "run.json", full, times=1)
    handle = ckpt.save(1)
    for ask in (handle.wait, lambda: handle.id, handle.wait, lambda: asyncio.run(_awaited(handle))):
        with pytest.raises(SaveFailed, match="step 1 failed"):
            ask()
    assert isinstance(handle.error, StorageDenied)
    assert repr(handle) == "<SaveHandle step=1 failed>"


async def _awaited(handle: object) -> object:
    return await handle


def test_asking_for_the_error_does_not_count_as_having_been_told(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    store.fail("put", "data/*-step-1-*", full)
    with store.hold("put", "run.json"):
        first, second = ckpt.save(1), ckpt.save(2)
        assert first.error is None
    second.wait()
    assert (first.status, type(first.error)) == ("failed", StorageDenied)
    with pytest.raises(SaveFailed):
        ckpt.close()


@pytest.mark.executors("thread")
def test_who_was_cancelled_has_not_been_told() -> None:
    begun = threading.Event()
    handle = SaveHandle(1, settle=begun.set)

    async def cancelled() -> None:
        waiting = asyncio.ensure_future(_awaited(handle))
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        waiting.cancel()
        handle._end("failed", error=SaveFailed("its own reason"))
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancelled())  # which waits for the thread that waits
    assert handle.is_untold


@pytest.mark.executors("thread")
def test_what_is_told_of_one_save_says_nothing_of_another_of_the_same_step() -> None:
    first, second = SaveHandle(1), SaveHandle(1)
    first._end("failed", error=SaveFailed("the first reason"))
    assert untold([first, second]) is not None
    second._end("failed", error=SaveFailed("the second reason"))
    with pytest.raises(SaveFailed, match="the second reason"):
        raise untold([first, second]) or AssertionError


@pytest.mark.parametrize(("on_busy", "error"), [("skip", SaveSkipped), ("coalesce", SaveSuperseded)])
def test_what_never_was_written_raises_its_own_error_everywhere(
    make: Make, store: GatedStorage, on_busy: str, error: type[Exception]
) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1), on_busy=on_busy)
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        gate.wait_reached()
        handles = [ckpt.step(2), ckpt.step(3)]
    lost = handles[1] if on_busy == "skip" else handles[0]
    for ask in (lost.wait, lambda: lost.id):
        with pytest.raises(error):
            ask()
    ckpt.wait()
    ckpt.close()


def test_what_took_its_place_is_sought_among_the_newer_ones_alone() -> None:
    before, lost, after = SaveHandle(3), SaveHandle(2), SaveHandle(3)
    handles = [before, lost]  # after a rollback; on another rank, which has yet to make the newer save
    before._give_way(2, handles)
    lost._give_way(3, handles)
    with pytest.raises(SaveSuperseded, match="step 2 was replaced by the one of step 3 before"):
        lost.wait()
    handles.append(after)
    after._end("failed", error=SaveFailed("its own reason"))
    after._give_way(3, [*handles, SaveHandle(3)])
    with pytest.raises(SaveFailed, match="its own reason"):
        after.wait()


def test_many_threads_may_wait_for_one_save(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, verify="always")
    started = threading.Barrier(9)

    def ask(number: int) -> object:
        started.wait()
        return (handle.wait().id, handle.id, handle.wait_staged())[number % 3]

    with ThreadPoolExecutor(8) as threads, store.hold("put", "data/*"):
        handle = ckpt.save(1)
        asking = [threads.submit(ask, number) for number in range(8)]
        started.wait()
        training.step()
        store.release()
        assert {future.result() for future in asking} == {"00000001", None}


class Watched(threading.Event):
    """Counts who begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.arrivals.release()
        return super().wait(timeout)


def test_a_step_waits_for_the_comparison_that_another_thread_makes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    comparing, go_on = threading.Event(), threading.Event()

    def slowly(one: torch.Tensor, other: torch.Tensor) -> bool:
        comparing.set()
        assert go_on.wait(PATIENCE)
        return same_bits(one, other)

    monkeypatch.setattr("asyncckpt.staging.schedule.same_bits", slowly)
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, verify="always")
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(ckpt.save(1).wait)
        assert comparing.wait(PATIENCE)
        stepper: queue.SimpleQueue[int] = queue.SimpleQueue()
        stepping = threads.submit(lambda: (stepper.put(threading.get_ident()), training.step()))
        thread = stepper.get()
        while not stepping.done() and calls_of(thread)[:1] != ["guard"]:  # there it stands at the lock
            time.sleep(0.001)
        go_on.set()
        stepping.result()
        assert waiting.result().step == 1


def test_a_step_waits_for_the_copy_also_while_another_thread_waits_for_it(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, verify="off")
    before = training.model.weight.detach().clone()
    busy = threading.Event()
    ckpt._saver.stager.start()
    ckpt._saver.stager._copier.put(busy.wait)  # the copying thread has something else to do first
    handle = ckpt.save(1)
    copied = ckpt._saver.stager._pending[-1].enqueued = Watched()
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(ckpt.before_mutation)
        assert copied.arrivals.acquire(timeout=PATIENCE)
        stepping = threads.submit(training.step)
        stepping.add_done_callback(lambda done: copied.arrivals.release())
        assert copied.arrivals.acquire(timeout=PATIENCE)
        busy.set()
        stepping.result()
        waiting.result()
    handle.wait()
    assert torch.equal(load(store).state["model"]["weight"], before)
