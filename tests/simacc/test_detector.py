"""The race detector: each rule, with a program that it clears and one that it does not.

In each pair the second program lacks one edge of the first. Nothing depends on when anything ran.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asyncckpt.testing import simacc


@pytest.fixture
def x() -> Tensor:
    tensor = torch.zeros(64, device="sim")
    torch.accelerator.synchronize()
    return tensor


@pytest.fixture
def side() -> torch.Stream:
    return torch.Stream(device="sim")


def read(x: Tensor) -> None:
    simacc.launch(lambda _: None, reads=[x])


def write(x: Tensor) -> None:
    simacc.launch(lambda _: None, writes=[x])


def raced() -> bool:
    return bool(simacc.races())


def test_two_reads_never_race(x: Tensor, side: torch.Stream) -> None:
    read(x)
    with side:
        read(x)
    assert not raced()


def test_a_read_races_with_an_earlier_write(x: Tensor, side: torch.Stream) -> None:
    write(x)
    with side:
        read(x)
    assert simacc.races() == [
        f"read by stream {side.stream_id} (<lambda>) on sim:0 races with earlier write by stream 0 (<lambda>) on sim:0"
    ]


def test_a_write_races_with_an_earlier_read(x: Tensor, side: torch.Stream) -> None:
    read(x)
    with side:
        write(x)
    assert raced()


def test_two_writes_race(x: Tensor, side: torch.Stream) -> None:
    write(x)
    with side:
        write(x)
    assert raced()


def test_a_stream_does_not_race_with_itself(x: Tensor) -> None:
    write(x)
    read(x)
    write(x)
    assert not raced()


def test_other_bytes_of_a_block_do_not_race(x: Tensor, side: torch.Stream) -> None:
    write(x[:32])
    with side:
        write(x[32:])
        assert not raced()
        write(x[31:])
        assert raced()


def test_a_stream_that_waits_for_an_event_is_ordered(x: Tensor, side: torch.Stream) -> None:
    write(x)
    event = torch.accelerator.current_stream().record_event()
    side.wait_event(event)
    with side:
        write(x)
    assert not raced()


def test_an_event_does_not_order_what_comes_after_it(x: Tensor, side: torch.Stream) -> None:
    event = torch.accelerator.current_stream().record_event()
    write(x)
    side.wait_event(event)
    with side:
        write(x)
    assert raced()


def test_a_wait_does_not_order_what_came_before_it(x: Tensor, side: torch.Stream) -> None:
    with side:
        write(x)
    event = torch.accelerator.current_stream().record_event()
    side.wait_event(event)
    write(x)
    assert raced()


def test_order_goes_on_through_a_third_stream(x: Tensor, side: torch.Stream) -> None:
    third = torch.Stream(device="sim")
    write(x)
    third.wait_event(torch.accelerator.current_stream().record_event())
    side.wait_event(third.record_event())
    with side:
        write(x)
    assert not raced()


# -- what is remembered, though something later was done to the same bytes --


def test_a_write_of_a_part_does_not_stand_for_that_of_the_whole(x: Tensor, side: torch.Stream) -> None:
    write(x)
    write(x[:1])
    with side:
        write(x[32:])
    assert raced()


def test_a_read_does_not_stand_for_the_write_before_it(x: Tensor, side: torch.Stream) -> None:
    write(x)
    read(x)
    with side:
        read(x)
    assert raced()


def test_an_ordered_read_does_not_stand_for_the_write_before_it(x: Tensor, side: torch.Stream) -> None:
    third = torch.Stream(device="sim")
    write(x)
    third.wait_event(torch.accelerator.current_stream().record_event())
    with third:
        read(x)
    with side:
        read(x)
    assert raced()


def test_a_write_does_not_stand_for_one_that_it_raced_with(x: Tensor, side: torch.Stream) -> None:
    third = torch.Stream(device="sim")
    write(x)
    with side:
        write(x)
    assert len(simacc.races()) == 1
    third.wait_event(side.record_event())
    with third:
        write(x)
    assert len(simacc.races()) == 1


@pytest.mark.parametrize("wait", ["event", "stream", "device", "query", "stream query", "none"])
def test_the_host_orders_what_it_queues_after_a_wait(wait: str, x: Tensor, side: torch.Stream) -> None:
    write(x)
    stream = torch.accelerator.current_stream()
    event = stream.record_event()
    if wait == "event":
        event.synchronize()
    elif wait == "stream":
        stream.synchronize()
    elif wait == "device":
        torch.accelerator.synchronize()
    elif wait == "query":
        while not event.query():
            pass
    elif wait == "stream query":
        while not stream.query():
            pass
    with side:
        write(x)
    assert raced() == (wait == "none")


def test_a_query_that_says_no_orders_nothing(x: Tensor, side: torch.Stream) -> None:
    with simacc.hold(torch.accelerator.current_stream()):
        write(x)
        event = torch.accelerator.current_stream().record_event()
        assert not event.query()
        assert not torch.accelerator.current_stream().query()
        with side:
            write(x)
    assert raced()


def test_item_waits_and_orders(x: Tensor, side: torch.Stream) -> None:
    write(x)
    x.sum().item()
    with side:
        write(x)
    assert not raced()


def test_a_blocking_copy_waits_and_orders(x: Tensor, side: torch.Stream) -> None:
    write(x)
    x.cpu()
    with side:
        write(x)
    assert not raced()


def test_a_random_kernel_does_not_order(x: Tensor, side: torch.Stream) -> None:
    write(x)
    torch.randn(4, device="sim")
    torch.nn.functional.dropout(torch.ones(4, device="sim"), 0.5)
    with side:
        write(x)
    assert raced()


def test_an_operator_without_shape_function_does_not_order(x: Tensor, side: torch.Stream) -> None:
    write(x)
    simacc.reset()
    torch._foreach_norm([torch.ones(4, device="sim")])
    torch.histc(torch.ones(4, device="sim"))
    assert simacc.stats().get("host_syncs", 0) == 0
    with side:
        write(x)
    assert raced()


def test_an_operator_declares_what_it_writes(x: Tensor, side: torch.Stream) -> None:
    y, gradient = torch.zeros(64, device="sim"), torch.ones(64, device="sim")
    torch.accelerator.synchronize()
    torch.add(x, 1, out=y)
    torch._fused_sgd_([x], [gradient], [], weight_decay=0, momentum=0, lr=0.1, dampening=0, nesterov=False,
                      maximize=False, is_first_step=True)  # fmt: skip
    with side:
        read(y)
        assert "(add)" in simacc.races()[0]
        read(x)
        assert "(_fused_sgd_)" in simacc.races()[0]


def test_batch_norm_declares_its_running_statistics(side: torch.Stream) -> None:
    norm = torch.nn.BatchNorm1d(4).to("sim")
    assert norm.running_mean is not None
    torch.accelerator.synchronize()
    norm(torch.ones(2, 4, device="sim"))
    with side:
        read(norm.running_mean)
    assert "batch_norm" in simacc.races()[0]


# -- the host's own accesses --


@pytest.fixture
def host() -> Tensor:
    tensor = torch.zeros(64, pin_memory=True)
    torch.accelerator.synchronize()
    return tensor


def test_the_host_reads_before_a_copy_is_done(x: Tensor, host: Tensor) -> None:
    host.copy_(x, non_blocking=True)
    simacc.host_access(host)
    assert raced()
    torch.accelerator.synchronize()
    simacc.host_access(host)
    assert not raced()


def test_the_host_may_read_what_a_copy_reads_but_not_write_it(x: Tensor, host: Tensor) -> None:
    x.copy_(host, non_blocking=True)
    simacc.host_access(host)
    assert not raced()
    simacc.host_access(host, write=True)
    assert raced()


def test_what_the_host_did_is_before_what_it_queues(x: Tensor, host: Tensor) -> None:
    simacc.host_access(host, write=True)
    host.copy_(x, non_blocking=True)
    assert not raced()


def test_other_host_bytes_do_not_race(x: Tensor, host: Tensor) -> None:
    host[:32].copy_(x[:32], non_blocking=True)
    simacc.host_access(host[32:])
    assert not raced()
    simacc.host_access(host[31:])
    assert raced()


def test_an_asynchronous_free_forgets_what_the_thread_had_seen(x: Tensor, side: torch.Stream) -> None:
    """A free after a wait, and a later owner of the same block, are ordered by the allocator."""
    temporary = torch.zeros(4096, device="sim")
    side.wait_event(torch.accelerator.current_stream().record_event())
    with side:
        read(temporary)
    side.synchronize()
    del temporary
    torch.zeros(4096, device="sim")
    assert not raced()


def test_races_are_told_once_and_reset_drops_them(x: Tensor, side: torch.Stream) -> None:
    write(x)
    with side:
        write(x)
        assert raced()
        assert not raced()
        read(x)
    read(x)
    assert raced()
    write(x)
    simacc.reset()
    assert not raced()


def test_forget_ends_what_could_race(x: Tensor, side: torch.Stream) -> None:
    write(x)
    simacc.forget()
    with side:
        write(x)
    assert not raced()


def test_peers_wait_for_each_other() -> None:
    x = torch.zeros(64, device="sim:0")
    y = torch.zeros(64, device="sim:1")
    y.copy_(x)
    x.fill_(1)
    y.fill_(2)
    assert not raced()


def test_autograd_works_for_the_thread_that_called_it(x: Tensor, side: torch.Stream) -> None:
    """Backward runs on a thread of the engine, and knows what the caller has waited for."""
    weight = torch.zeros(64, device="sim", requires_grad=True)
    weight.grad = torch.zeros(64, device="sim")
    output, gradient = weight * x, torch.ones(64, device="sim")
    torch.accelerator.synchronize()
    with side:
        read(weight.grad)
    side.synchronize()
    output.backward(gradient)  # nothing but the engine queues anything after that wait
    assert not raced()


def test_autograd_knows_no_more_than_its_caller(x: Tensor, side: torch.Stream) -> None:
    weight = torch.zeros(64, device="sim", requires_grad=True)
    weight.grad = torch.zeros(64, device="sim")
    output, gradient = weight * x, torch.ones(64, device="sim")
    torch.accelerator.synchronize()
    with side:
        read(weight.grad)
    output.backward(gradient)
    assert raced()
