"""What lies in the arena is read when it is there, and overwritten when nobody reads it any more."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import asyncckpt
from asyncckpt import AsyncCheckpointer, SaveHandle
from asyncckpt.staging import backlog, lane, pieces, pinning
from asyncckpt.staging.streams import StreamDevice
from asyncckpt.testing import simacc
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .declaring import Declaring
from .trainings import Told, Training, differing, side, steps_beside_saves, tensors


@pytest.mark.parametrize("busy", ["coalesce", "wait", "skip"])
def test_T5_T6_the_writer_reads_what_has_arrived_and_nothing_overwrites_it_before(busy: Any) -> None:
    training = Training()
    with training.checkpointer(verify="off", on_busy=busy) as checkpointer:
        handles, wanted = [], {}
        for step in range(1, 9):
            wanted[step] = training.state()
            handles.append(checkpointer.save(step, on_busy=busy))
            training.step()
        checkpointer.wait()
        done = [handle.step for handle in handles if handle.status == "durable"]
        assert done
        for step in done:
            assert differing(training.saved(step), wanted[step]) == []
    assert training.store.declared > 10_000


def test_T6_a_slow_writer_keeps_what_it_reads_and_the_newest_save_takes_the_place_of_the_one_that_waits() -> None:
    training = Training()
    store, training.store = training.store, GatedStorage(training.store)
    with training.checkpointer(verify="off", generations=2) as checkpointer:
        checkpointer.save(1).wait()
        training.step()
        with training.store.hold("put", "*.safetensors") as writing:
            wanted, handles, gates = {}, [], []
            for step in range(2, 6):
                wanted[step] = training.state()
                for gate in gates:  # what has to give way is being copied, and will be while it does
                    threading.Timer(0.05, gate).start()
                gates = [simacc.hold(side())]
                handles.append(checkpointer.save(step, on_busy="coalesce"))
                training.forward_backward()
                if step == 2:
                    gates.pop()()
                    writing.wait_reached()
            gates.pop()()
            training.step()
            skipped = checkpointer.save(6, on_busy="skip")
        checkpointer.wait()
    assert [handle.status for handle in (*handles, skipped)] == [
        "durable",
        "superseded",
        "superseded",
        "durable",
        "skipped",
    ]
    training.store = store
    for step in (2, 5):
        assert differing(training.saved(step), wanted[step]) == []


@pytest.mark.parametrize("pageable_async", [False, True])
def test_T15_memory_that_cannot_be_page_locked_is_copied_to_all_the_same(
    monkeypatch: pytest.MonkeyPatch, pageable_async: bool
) -> None:
    monkeypatch.delitem(pinning._registrars, "sim")
    simacc.configure(pageable_async=pageable_async)
    told, training = Told(), Training()
    with training.checkpointer(verify="always", listeners=[told]) as checkpointer:
        steps_beside_saves(training, checkpointer)
    assert list(told.fallbacks()) == ["pinned memory"]
    assert simacc.stats().get("d2h_pinned", 0) == 0


@pytest.mark.parametrize("pageable_async", [False, True])
def test_a_state_on_a_device_that_is_larger_than_host_memory_goes_through_a_window(pageable_async: bool) -> None:
    simacc.configure(pageable_async=int(pageable_async))
    million = 1 << 20
    model = torch.nn.ParameterList(torch.nn.Parameter(torch.rand(12 * million)) for _ in range(3)).to("sim")
    model.register_buffer("table", torch.rand(million).to("sim"))
    model.append(torch.nn.Parameter(torch.rand(3 * million)))  # in host memory
    optimizer, store = torch.optim.SGD(model.parameters(), lr=0.1), Declaring("window")
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, budget=150 * million) as checkpointer:
        for step in (1, 2):
            wanted = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
            handle = checkpointer.save(step)
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            handle.wait()
            found = asyncckpt.load(store, step).state["model"]
            assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
        assert checkpointer._saver._arenas._free[0].window == 150 * million


@pytest.mark.parametrize("verify", ["off", "always"])
def test_T8_a_warm_save_locks_no_memory_takes_none_on_the_device_and_waits_for_nothing(verify: Any) -> None:
    training = Training(torch.optim.SGD, momentum=0.9)
    scaler = torch.amp.GradScaler("sim", init_scale=8.0)
    scaler.scale(torch.ones(1, device=training.device))  # only now it has tensors
    with training.checkpointer(verify=verify, scaler=scaler) as checkpointer:
        for step in range(1, 5):
            checkpointer.save(step)
            training.step()
        checkpointer.wait()
        _let_go(checkpointer)
        torch.accelerator.synchronize()
        lasting = simacc.stats()["live_bytes"]
        simacc.reset()  # peaks too
        simacc.configure(pinned_alloc_syncs=True)
        with simacc.hold(side()):
            other_threads = threading.Event()  # which may wait for the device
            checkpointer._saver.stager._copier.put(lambda: assert_in_time(other_threads))
            handle = checkpointer.save(5)
            called = simacc.stats()
            other_threads.set()
            training.forward_backward()
            training.optimizer.step()
            stepped = simacc.stats()
            assert not handle.done()
        training.optimizer.zero_grad()
        handle.wait()
        torch.accelerator.synchronize()
        after = simacc.stats()
    assert called.get("host_syncs", 0) == 0
    assert stepped.get("host_syncs", 0) <= 1  # of the thread that waits for the copy that is held
    assert stepped.get("d2h_pinned", 0) > 0
    assert called["peak_bytes"] == lasting
    for name in ("pinned_allocs", "host_registers"):
        assert after.get(name, 0) == 0
    assert after.get("d2h_pageable", 0) == (verify == "always")  # what differs, which the thread that waits reads
    assert after["live_bytes"] == lasting
    assert after["peak_bytes"] <= lasting + _needed_by_a_step(training) + _needed_to_compare(training, verify)


def test_T8_what_is_EAGER_and_too_big_to_be_gathered_is_cut_and_queued_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kib = 1024
    monkeypatch.setattr(lane, "SCRATCH", 0)
    monkeypatch.setattr(pieces, "GROUP", 64 * kib)
    monkeypatch.setattr(backlog, "MOST", 128 * kib)
    queued, store = Queued(monkeypatch), Declaring("eager")
    whole, turned = torch.rand(3, 64 * kib, device="sim"), torch.rand(256, 256, device="sim").t()
    frozen = torch.nn.ParameterList(map(torch.nn.Parameter, (*whole, turned)))
    with AsyncCheckpointer(store, model=frozen, generations=1, verify="off") as checkpointer:
        before = lasting = simacc.stats()["live_bytes"]
        for step in (1, 2, 3):
            wanted = tensors(frozen.state_dict())
            simacc.reset()
            with simacc.hold(side()) as queued.gate:
                handle = checkpointer.save(step)
                assert step == 1 or simacc.stats()["peak_bytes"] == lasting
            for parameter in frozen:
                parameter.data.add_(1)  # no guard sees it
            handle.wait()
            assert differing(tensors(asyncckpt.load(store, step).state["model"]), wanted) == []
            torch.accelerator.synchronize()
            lasting = simacc.stats()["live_bytes"]
            assert 64 * kib < queued.most <= 128 * kib
            queued.settle()
        assert lasting - before <= 65 * kib  # where small ones are gathered


class Queued:
    """How many bytes of EAGER copies are queued at most; the device makes none before somebody waits for them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.most = 0
        self.gate: Any = None
        self._sent, self._made = sent, made = list[int](), list[int]()
        send, wait = lane.Batch.send, StreamDevice.wait

        def sending(batch: lane.Batch, *given: Any, **options: Any) -> None:
            send(batch, *given, **options)
            sent.append(batch.end - batch.start)
            self.most = max(self.most, sum(sent) - sum(made))

        def waiting(device: StreamDevice, event: torch.Event) -> None:
            self.gate()
            wait(device, event)
            made.append(sent[len(made)])

        patch.setattr(lane.Batch, "send", sending)
        patch.setattr(StreamDevice, "wait", waiting)

    def settle(self) -> None:
        """All copies are made."""
        self._made[:] = self._sent


def assert_in_time(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def _let_go(checkpointer: AsyncCheckpointer) -> None:
    """Have nothing left of snapshots that are over, which the next would let go of: a slow thread ends them late."""
    checkpointer.before_mutation()
    for thread in (checkpointer._saver.stager._copier, checkpointer._saver.stager._waiter):
        done = threading.Event()
        thread.put(done.set)
        assert_in_time(done)


def _needed_by_a_step(training: Training) -> int:
    """Device memory for what a forward and a backward pass make, measured on one."""
    torch.accelerator.synchronize()
    before = simacc.stats()["live_bytes"]
    simacc.reset()
    training.step()
    return simacc.stats()["peak_bytes"] - before


def _needed_to_compare(training: Training, verify: str) -> int:
    """The copies, sent back, and as many bytes that say what differs; blocks are a multiple of 512 bytes."""
    tensors = [*training.model.parameters(), *(s["momentum_buffer"] for s in training.optimizer.state.values())]
    return 0 if verify == "off" else 2 * sum(-(-tensor.nbytes // 512) * 512 for tensor in tensors)


def test_T11_a_hundred_saves_use_one_side_stream() -> None:
    training = Training(torch.optim.SGD)
    with training.checkpointer(verify="off") as checkpointer:
        checkpointer.save(1).wait()
        stream = side()
        before = torch.Stream(device=training.device).stream_id  # numbered as they are made, round robin from 1 to 32
        for step in range(2, 101):
            checkpointer.save(step).wait()
        assert side() is stream
    assert torch.Stream(device=training.device).stream_id == before % 32 + 1


@pytest.mark.parametrize("straight", [1 << 20, 1], ids=["gathered", "straight"])
def test_T11_a_model_on_two_devices_saved_from_a_thread_whose_device_is_another(
    straight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "STRAIGHT", straight)
    first, second = Training(device=torch.device("sim", 0)), Training(device=torch.device("sim", 1))
    parts = {"model": {"a": first.model, "b": second.model}, "optimizer": [first.optimizer, second.optimizer]}
    store = first.store = second.store = Declaring("two")
    with AsyncCheckpointer(store, **parts, verify="always") as checkpointer:
        for step in (1, 2, 3):
            wanted = [first.state(), second.state()]

            handle = _in_a_thread(checkpointer, step)
            first.step()
            second.step()
            handle.wait()
            found = first.saved()
            for name, training_state in zip("ab", wanted, strict=True):
                kept = {k: t for k, t in training_state.items() if k.startswith(".model.")}
                here = {k: found[k.replace(".model.", f".model.{name}.")] for k in kept}
                assert differing(here, kept) == []


def _in_a_thread(checkpointer: AsyncCheckpointer, step: int) -> SaveHandle:
    """Save from a thread whose current device is the second."""

    def save() -> SaveHandle:
        torch.accelerator.set_device_index(1)
        return checkpointer.save(step)

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(save).result()
