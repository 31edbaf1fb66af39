"""Streams and events: what is queued runs later, in order, and waits for what it is told to wait for."""

from __future__ import annotations

import threading

import pytest
import torch

from asyncckpt.testing import simacc


def test_an_operator_returns_before_it_has_run() -> None:
    stream = torch.accelerator.current_stream()
    x = torch.zeros(8, device="sim")
    host = torch.empty(8, pin_memory=True)
    with simacc.hold(stream):
        y = x + 1
        host.fill_(-1)
        simacc.host_access(host, write=True)
        host.copy_(y, non_blocking=True)
        assert not stream.query()
        assert (host == -1).all()
    stream.synchronize()
    simacc.host_access(host)
    assert (host == 1).all()
    assert stream.query()


def test_a_stream_that_was_waited_for_is_idle() -> None:
    stream = torch.accelerator.current_stream()
    for _ in range(50):
        torch.empty(8, device="sim").fill_(1)
        stream.synchronize()
        assert stream.query()


def test_a_number_on_the_host_is_taken_as_it_is_now() -> None:
    number = torch.tensor(2.0)
    x = torch.ones(8, device="sim")
    with simacc.hold(torch.accelerator.current_stream()):
        y = x * number
        number.fill_(5)
    assert (y == 2).all()


def test_a_gate_opens_once_and_as_a_context() -> None:
    stream = torch.Stream(device="sim")
    release = simacc.hold(stream)
    assert not stream.query()
    release()
    release()
    stream.synchronize()
    with simacc.hold(stream) as again:
        again()
        stream.synchronize()
    assert simacc.release_all() == 0


def test_a_gate_holds_one_stream_only() -> None:
    with simacc.hold(torch.Stream(device="sim")):
        torch.accelerator.current_stream().synchronize()
        torch.ones(4, device="sim").sum().item()


def test_a_wait_is_for_the_record_before_it() -> None:
    first, waiting, held = (torch.Stream(device="sim") for _ in range(3))
    event = torch.Event("sim")
    event.record(first)
    waiting.wait_event(event)
    with simacc.hold(held):
        event.record(held)
        waiting.synchronize()
        assert not event.query()
    held.synchronize()
    assert event.query()


def test_a_stream_waits_for_another() -> None:
    first, second = torch.Stream(device="sim"), torch.Stream(device="sim")
    with simacc.hold(first):
        second.wait_stream(first)
        assert not second.query()
    second.synchronize()


def test_events_measure_time() -> None:
    before, after = torch.Event("sim", enable_timing=True), torch.Event("sim", enable_timing=True)
    before.record()
    with simacc.configured(kernel_latency=0.01):
        torch.ones(1, device="sim")
        after.record()
        after.synchronize()
    assert before.elapsed_time(after) >= 10  # milliseconds
    with pytest.raises(ValueError, match="enable_timing"):
        torch.Event("sim").elapsed_time(after)


def test_an_event_that_was_not_recorded_has_happened() -> None:
    assert torch.Event("sim").query()
    torch.Event("sim").synchronize()


def test_the_current_stream_is_the_threads_own() -> None:
    stream = torch.Stream(device="sim")
    seen: list[int] = []
    with stream:
        thread = threading.Thread(target=lambda: seen.append(torch.accelerator.current_stream().stream_id))
        thread.start()
        thread.join()
        assert torch.accelerator.current_stream() == stream
    assert seen == [0]
    assert stream.stream_id != 0


def test_the_current_device_is_the_threads_own() -> None:
    seen: list[int] = []
    with torch.sim.device(1):
        thread = threading.Thread(target=lambda: seen.append(torch.sim.current_device()))
        thread.start()
        thread.join()
        assert torch.empty(1, device="sim").device.index == 1
    assert seen == [0]


def test_streams_come_from_a_pool_of_32() -> None:
    ids = [torch.Stream(device="sim").stream_id for _ in range(64)]
    assert len(set(ids)) == 32
    assert ids[:32] == ids[32:]
    assert simacc.stats()["streams"] == 64


def test_an_index_out_of_range_surfaces_at_the_next_wait() -> None:
    x = torch.ones(4, device="sim")
    index = torch.tensor([9]).to("sim")
    x[index]
    with pytest.raises(RuntimeError, match="index 9 is out of bounds"):
        torch.accelerator.synchronize()
    torch.accelerator.synchronize()  # told once


def test_a_wrong_argument_is_an_error_of_the_call() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        torch.ones(2, 3, device="sim") @ torch.ones(2, 3, device="sim")


def test_host_and_device_tensors_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="sim") + torch.ones(2)
    assert (torch.ones(2, device="sim") + torch.tensor(1.0)).tolist() == [2, 2]


def test_a_shape_that_depends_on_data_makes_the_host_wait() -> None:
    x = torch.tensor([0, 1, 2]).to("sim")
    simacc.reset()
    assert x.nonzero().shape == (2, 1)
    assert simacc.stats()["host_syncs"] == 1


def test_two_devices_have_their_own_streams_and_meet_in_copies() -> None:
    x = torch.ones(4, device="sim:0")
    y = torch.empty(4, device="sim:1")
    with simacc.hold(torch.accelerator.current_stream(0)):
        x.add_(1)
        y.copy_(x)
        y.mul_(2)
        assert not torch.accelerator.current_stream(1).query()
    x.zero_()
    assert y.tolist() == [4, 4, 4, 4]


def test_a_trace_says_when_each_task_ran() -> None:
    with simacc.configured(trace=True):
        with simacc.hold(torch.accelerator.current_stream()):
            torch.ones(4, device="sim").mul_(2)
        torch.accelerator.synchronize()
    assert [ran.name for ran in simacc.trace()] == ["fill_", "mul"]
    assert all(ran.kind == "kernel" and ran.queued <= ran.began <= ran.ended for ran in simacc.trace())
    simacc.reset()
    assert simacc.trace() == []


def test_a_python_function_is_a_kernel() -> None:
    x = torch.ones(4, device="sim")
    y = torch.empty(4, device="sim")
    with simacc.hold(torch.accelerator.current_stream()):
        simacc.launch(lambda a, b: b.copy_(a * 3), reads=[x], writes=[y])
        x_then = x.mul_(2)
    assert y.tolist() == [3, 3, 3, 3]
    assert x_then.tolist() == [2, 2, 2, 2]


def test_a_python_function_declares_what_it_touches() -> None:
    x = torch.ones(4, device="sim")
    with torch.Stream(device="sim"):
        simacc.launch(lambda a: None, reads=[x])
    assert any("read by stream" in race and "fill_" in race for race in simacc.races())


def test_what_a_python_function_raises_surfaces_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    simacc.launch(fail, device="sim")
    with pytest.raises(RuntimeError, match="fail: ValueError: on purpose"):
        torch.accelerator.synchronize()
