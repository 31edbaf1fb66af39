"""Host threads have clocks of their own: what one has waited for, another knows only if something told it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from asyncckpt.testing import simacc
from asyncckpt.testing.simacc import followed, following

Pass = Callable[[Callable[[], Any], Callable[[], Any]], None]
"""Runs its first argument in one thread, then its second in another; what is between the two is its point."""


def copy_in_flight() -> tuple[Tensor, torch.Event]:
    host = torch.empty(64, pin_memory=True)
    host.copy_(torch.ones(64, device="sim"), non_blocking=True)
    return host, torch.accelerator.current_stream().record_event()


def by_start(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    first()
    thread = threading.Thread(target=second)
    thread.start()
    thread.join()


def by_join(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    thread = threading.Thread(target=first)
    thread.start()
    thread.join()
    second()


def by_run_method(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    class Worker(threading.Thread):
        def run(self) -> None:
            first()

    thread = Worker()
    thread.start()
    thread.join(timeout=60)
    second()


def handed(tell: Callable[[], object], listen: Callable[[], object]) -> Pass:
    """The first thread calls `tell` at its end; the second begins before that, with `listen`."""

    def run(first: Callable[[], Any], second: Callable[[], Any]) -> None:
        failures: list[BaseException] = []

        def receive() -> None:
            try:
                listen()
                second()
            except BaseException as error:  # told to the test below
                failures.append(error)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        first()
        tell()
        threading.Thread.join(thread, 60)
        assert not failures

    return run


def by_event() -> Pass:
    event = threading.Event()
    return handed(event.set, lambda: event.wait(60))


def by_simple_queue() -> Pass:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    return handed(lambda: items.put(1), lambda: items.get(timeout=60))


def by_simple_queue_nowait() -> Pass:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()

    def listen() -> None:
        while items.empty():
            pass
        assert items.qsize() == 1
        items.get_nowait()

    return handed(lambda: items.put_nowait(1), listen)


def by_queue() -> Pass:
    items: queue.Queue[int] = queue.Queue()
    return handed(lambda: items.put(1), lambda: items.get(timeout=60))


def by_future() -> Pass:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    return handed(lambda: future.set_result(1), lambda: future.result(60))


def by_condition() -> Pass:
    condition = threading.Condition()
    told: list[int] = []

    def tell() -> None:
        with condition:
            told.append(1)
            condition.notify_all()

    def listen() -> None:
        with condition:
            condition.wait_for(lambda: told, timeout=60)

    return handed(tell, listen)


def by_condition_wait(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    """The first thread lets the lock go only by waiting."""
    condition = threading.Condition()
    told: list[int] = []

    def run() -> None:
        with condition:
            second()
            told.append(1)
            condition.notify_all()

    with condition:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        first()
        assert condition.wait_for(lambda: told, timeout=60)


def by_semaphore() -> Pass:
    semaphore = threading.Semaphore(0)
    return handed(semaphore.release, lambda: semaphore.acquire(timeout=60))


def by_lock() -> Pass:
    lock = threading.Lock()
    lock.acquire()
    return handed(lock.release, lambda: lock.acquire(timeout=60))


def by_rlock(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    lock = threading.RLock()

    def locked(call: Callable[[], Any]) -> None:
        with lock, lock:
            call()

    with contextlib.ExitStack() as unfollowed:
        unfollowed.enter_context(lock)
        thread = threading.Thread(target=lambda: locked(second), daemon=True)
        thread.start()
        first()
    threading.Thread.join(thread, 60)


def by_executor(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: None).result()  # the thread is there before
        first()
        threads.submit(second).result()


def by_executor_result(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        threads.submit(first).result()
        second()


def by_call_soon_threadsafe(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    loop = asyncio.new_event_loop()
    done = threading.Event()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def receive(call: Callable[[], Any]) -> None:
        call()
        done.set()

    first()
    loop.call_soon_threadsafe(receive, second)
    assert done.wait(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def by_to_thread(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    async def run() -> None:
        await asyncio.to_thread(first)
        second()

    asyncio.run(run())


PASSES: dict[str, Callable[[], Pass]] = {
    "start": lambda: by_start,
    "join": lambda: by_join,
    "run method": lambda: by_run_method,
    "event": by_event,
    "simple queue": by_simple_queue,
    "simple queue, no wait": by_simple_queue_nowait,
    "queue": by_queue,
    "future": by_future,
    "condition": by_condition,
    "condition's wait": lambda: by_condition_wait,
    "semaphore": by_semaphore,
    "lock": by_lock,
    "rlock": lambda: by_rlock,
    "executor": lambda: by_executor,
    "executor's result": lambda: by_executor_result,
    "call_soon_threadsafe": lambda: by_call_soon_threadsafe,
    "to_thread": lambda: by_to_thread,
}


@pytest.mark.parametrize("name", PASSES)
def test_what_is_told_is_known(name: str) -> None:
    host, event = copy_in_flight()
    PASSES[name]()(event.synchronize, lambda: simacc.host_access(host))
    assert simacc.races() == []


@pytest.mark.parametrize("name", PASSES)
def test_a_read_is_before_what_is_told(name: str) -> None:
    """A slot that one thread has read, and another fills again."""
    host, event = copy_in_flight()
    x = torch.zeros(64, device="sim")

    def read() -> None:
        event.synchronize()
        simacc.host_access(host)

    PASSES[name]()(read, lambda: host.copy_(x, non_blocking=True))
    assert simacc.races() == []


@pytest.fixture
def unfollowed() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Lock", followed._RealLock)
        patch.setattr(threading, "RLock", followed._RealRLock)
        patch.setattr(queue, "SimpleQueue", followed._RealSimpleQueue)
        patch.setattr(threading.Thread, "start", following._real_start)
        patch.setattr(threading.Thread, "join", following._real_join)
        patch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", following._real_call_soon_threadsafe)
        yield


def test_a_start_tells_by_itself() -> None:
    """And not only because a thread says by an event, which is followed too, that it runs."""
    host, event = copy_in_flight()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Lock", followed._RealLock)
        thread = threading.Thread(target=lambda: simacc.host_access(host))
    event.synchronize()
    thread.start()
    thread.join()
    assert simacc.races() == []


@pytest.mark.parametrize("name", PASSES)
def test_what_nothing_tells_is_not_known(name: str, unfollowed: None) -> None:
    host, event = copy_in_flight()
    PASSES[name]()(event.synchronize, lambda: simacc.host_access(host))
    assert len(simacc.races()) == 1


@pytest.mark.parametrize("name", PASSES)
def test_a_slot_is_filled_while_another_thread_reads_it(name: str, unfollowed: None) -> None:
    host, event = copy_in_flight()
    x = torch.zeros(64, device="sim")

    def read() -> None:
        event.synchronize()
        simacc.host_access(host)

    PASSES[name]()(read, lambda: host.copy_(x, non_blocking=True))
    assert any("write by stream 0 (copy_) on sim:0 races with earlier read by HOST" in race for race in simacc.races())


def test_what_one_thread_frees_another_may_have(unfollowed: None) -> None:
    """The allocators order the two, and nothing else has to."""
    side = torch.Stream(device="sim")
    held = [torch.zeros(5000, device="sim"), torch.zeros(1 << 23, pin_memory=True)]
    addresses = [tensor.data_ptr() for tensor in held]
    side.wait_event(torch.accelerator.current_stream().record_event())
    with side:
        held[1][:5000].copy_(held[0], non_blocking=True)

    def wait_and_free() -> None:
        side.synchronize()
        held.clear()

    by_join(wait_and_free, lambda: None)
    device, host = torch.empty(5000, device="sim"), torch.empty(1 << 23, pin_memory=True)
    assert device.data_ptr() == addresses[0]
    while host.data_ptr() != addresses[1]:
        host = torch.empty(1 << 23, pin_memory=True)
    simacc.host_access(host, write=True)
    assert simacc.races() == []


def test_host_memory_that_one_thread_frees_another_may_have(unfollowed: None) -> None:
    held = [torch.empty(1 << 22, dtype=torch.uint8, pin_memory=True)]
    address = held[0].data_ptr()

    def write_and_free() -> None:
        simacc.host_access(held.pop(), write=True)

    by_join(write_and_free, lambda: None)
    again = torch.empty(1 << 22, dtype=torch.uint8, pin_memory=True)
    assert again.data_ptr() == address
    simacc.host_access(again, write=True)
    assert simacc.races() == []


def test_threads_race_with_each_other(unfollowed: None) -> None:
    host = torch.empty(64, pin_memory=True)
    by_join(lambda: simacc.host_access(host, write=True), lambda: simacc.host_access(host))
    assert any("read by HOST" in race and "earlier write by HOST" in race for race in simacc.races())


def test_what_is_done_after_the_telling_is_not_told() -> None:
    host, event = copy_in_flight()
    x = torch.zeros(64, device="sim")
    event.synchronize()
    told, read = threading.Event(), threading.Event()

    def tell_then_read() -> None:
        told.set()
        simacc.host_access(host)
        read.set()

    thread = threading.Thread(target=tell_then_read)
    thread.start()
    assert told.wait(60)
    while not read.is_set():  # which tells nothing
        pass
    host.copy_(x, non_blocking=True)
    thread.join()
    assert len(simacc.races()) == 1


def test_following_ends_with_its_context() -> None:
    assert isinstance(threading.Lock(), followed.FollowedLock)
    assert isinstance(threading.RLock(), followed.FollowedRLock)
    with simacc.following_threads():
        assert isinstance(threading.Lock(), followed.FollowedLock)
    assert isinstance(threading.Lock(), followed.FollowedLock)  # the fixture's still lasts


def test_a_lock_is_a_lock() -> None:
    lock = threading.Lock()
    assert lock.acquire()
    assert lock.locked()
    assert not lock.acquire(blocking=False)
    lock.release()
    with lock:
        assert lock.locked()
    assert not lock.locked()
