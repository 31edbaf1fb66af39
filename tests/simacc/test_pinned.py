"""Pinned memory: not handed out again in flight, and what happens to memory that is not pinned."""

from __future__ import annotations

import mmap

import pytest
import torch

from asyncckpt.testing import simacc

MIB = 1 << 20


def pinned(size: int = MIB) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def reserved() -> int:
    return simacc.stats().get("pinned_reserved_bytes", 0)


def all_blocks_of(size: int) -> list[torch.Tensor]:
    """Takes what earlier tests left of blocks of this class, so that the next one has to be pinned anew."""
    blocks, before = [], reserved()
    while reserved() == before:
        blocks.append(pinned(size))
    return blocks


def test_pinned_memory_is_known_as_such() -> None:
    assert pinned().is_pinned()
    assert torch.ones(4).pin_memory().is_pinned()
    assert not torch.ones(4).is_pinned()


def test_a_block_is_not_recycled_while_a_copy_is_in_flight() -> None:
    x = torch.ones(MIB, dtype=torch.uint8, device="sim")
    torch.accelerator.synchronize()
    stream = torch.Stream(device="sim")
    with simacc.hold(stream):
        host = pinned()
        address = host.data_ptr()
        with stream:
            host.copy_(x, non_blocking=True)
        del host
        other = pinned()
        assert other.data_ptr() != address
    stream.synchronize()
    assert pinned().data_ptr() == address


def test_a_recycled_block_is_its_next_owners_alone() -> None:
    host = pinned()
    address = host.data_ptr()
    host.copy_(torch.ones(MIB, dtype=torch.uint8, device="sim"), non_blocking=True)
    del host
    others = []
    while not others or others[-1].data_ptr() != address:
        others.append(pinned())
    simacc.host_access(others[-1], write=True)


def test_blocks_are_powers_of_two_and_kept() -> None:
    taken = all_blocks_of(64 * MIB)
    before, allocs = reserved(), simacc.stats()["pinned_allocs"]
    big = pinned(33 * MIB)
    assert reserved() == before + 64 * MIB
    del big
    pinned(40 * MIB)
    assert simacc.stats()["pinned_allocs"] == allocs + 1
    del taken


def test_a_freed_block_holds_poison() -> None:
    host = pinned()
    address = host.data_ptr()
    host.zero_()
    del host
    again = pinned()
    assert again.data_ptr() == address
    assert (again == 0xDD).all()


def test_pinning_fails_on_purpose() -> None:
    taken = all_blocks_of(MIB)
    simacc.configure(fail_pinned_after=1)
    taken.append(pinned())
    with pytest.raises(RuntimeError, match="injected failure of a pinned allocation"):
        pinned()
    taken.append(pinned())


def test_registering_fails_on_purpose() -> None:
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    simacc.configure(fail_pinned_after=0)
    with pytest.raises(RuntimeError, match="injected failure of a registration"):
        simacc.host_register(address, mmap.PAGESIZE)
    simacc.host_register(address, mmap.PAGESIZE)
    simacc.host_unregister(address)


def test_pinning_may_wait_for_all_devices() -> None:
    simacc.configure(pinned_alloc_syncs=True, pinned_alloc_latency=0.001)
    torch.ones(1, device="sim")
    simacc.reset()
    taken = all_blocks_of(MIB)
    assert simacc.stats()["host_syncs"] >= 2
    del taken


def test_a_pageable_destination_blocks() -> None:
    x = torch.ones(MIB, dtype=torch.uint8, device="sim")
    host = torch.zeros(MIB, dtype=torch.uint8)
    host.copy_(x, non_blocking=True)
    assert (host == 1).all()
    assert simacc.stats()["d2h_pageable"] == 1


def test_a_pageable_destination_may_return_early() -> None:
    x = torch.ones(MIB, dtype=torch.uint8, device="sim")
    host = torch.zeros(MIB, dtype=torch.uint8)
    simacc.configure(pageable_async=True)
    stream = torch.accelerator.current_stream()
    with simacc.hold(stream):
        host.copy_(x, non_blocking=True)
        assert (host == 0).all()
    stream.synchronize()
    assert (host == 1).all()


def test_a_pinned_destination_that_is_not_contiguous_blocks() -> None:
    host = torch.zeros(64, 64, pin_memory=True)
    host[:, ::2].copy_(torch.ones(64, 32, device="sim"), non_blocking=True)
    assert host.sum() == 64 * 32
    assert simacc.stats()["d2h_pageable"] == 1


def test_a_pageable_source_is_read_in_the_call() -> None:
    host = torch.ones(8)
    x = torch.empty(8, device="sim")
    with simacc.hold(torch.accelerator.current_stream()):
        x.copy_(host, non_blocking=True)
        host.zero_()
    assert (x == 1).all()


def test_a_pinned_source_is_read_later() -> None:
    host = torch.ones(8).pin_memory()
    x = torch.empty(8, device="sim")
    with simacc.hold(torch.accelerator.current_stream()):
        x.copy_(host, non_blocking=True)
        host.zero_()
        simacc.host_access(host, write=True)
        assert len(simacc.races()) == 1
    assert (x == 0).all()


def test_a_copy_is_as_slow_as_it_is_told_to_be() -> None:
    x = torch.ones(8 * MIB, dtype=torch.uint8, device="sim")
    host = torch.empty(8 * MIB, dtype=torch.uint8, pin_memory=True)
    before, after = torch.Event("sim", enable_timing=True), torch.Event("sim", enable_timing=True)
    before.record()
    with simacc.configured(d2h_bw=80 * MIB, copy_latency=0.01):
        host.copy_(x, non_blocking=True)
    after.record()
    after.synchronize()
    assert before.elapsed_time(after) >= 110
    assert (host == 1).all()


def test_memory_of_the_callers_can_be_pinned() -> None:
    size = 1 << 16
    memory = mmap.mmap(-1, size)
    host = torch.frombuffer(memory, dtype=torch.uint8)
    assert not host.is_pinned()
    simacc.host_register(host.data_ptr(), size)
    assert host.is_pinned()
    x = torch.full((size,), 9, dtype=torch.uint8, device="sim")
    stream = torch.accelerator.current_stream()
    with simacc.hold(stream):
        host.copy_(x, non_blocking=True)
        assert host[0] == 0
    stream.synchronize()
    assert (host == 9).all()
    simacc.host_unregister(host.data_ptr())
    assert not host.is_pinned()


def test_memory_is_unregistered_only_when_its_copies_are_done() -> None:
    size = 1 << 16
    memory = mmap.mmap(-1, size)
    host = torch.frombuffer(memory, dtype=torch.uint8)
    simacc.host_register(host.data_ptr(), size)
    host.copy_(torch.ones(size, dtype=torch.uint8, device="sim"), non_blocking=True)
    simacc.host_unregister(host.data_ptr())
    assert any("host_unregister" in race for race in simacc.races())
    torch.accelerator.synchronize()


def test_registering_refuses_what_cannot_be() -> None:
    memory = mmap.mmap(-1, 1 << 16)
    host = torch.frombuffer(memory, dtype=torch.uint8)
    with pytest.raises(ValueError, match="whole pages"):
        simacc.host_register(host.data_ptr() + 8, 4096)
    with pytest.raises(ValueError, match="not registered"):
        simacc.host_unregister(host.data_ptr())
    simacc.host_register(host.data_ptr(), 4096)
    with pytest.raises(RuntimeError, match="pinned already"):
        simacc.host_register(host.data_ptr(), 4096)
    simacc.host_unregister(host.data_ptr())


def test_only_host_memory_is_accessed_by_the_host() -> None:
    with pytest.raises(ValueError, match="this tensor is on sim:0"):
        simacc.host_access(torch.ones(1, device="sim"))
