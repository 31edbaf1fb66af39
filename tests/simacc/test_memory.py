"""Device memory: out of the host's reach, and reused by the rules of CUDA's caching allocator."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import pytest
import torch

from asyncckpt.testing import simacc

MIB = 1 << 20


def test_the_host_cannot_touch_device_memory() -> None:
    script = (
        "import ctypes, torch\n"
        "from asyncckpt.testing import simacc\n"
        "x = torch.ones(4, device='sim')\n"
        "torch.accelerator.synchronize()\n"
        "print(ctypes.string_at(x.data_ptr(), 4))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    assert done.returncode == -signal.SIGSEGV
    assert done.stdout == b""


def test_a_block_is_reused_at_once_on_its_own_stream() -> None:
    with simacc.hold(torch.accelerator.current_stream()):
        x = torch.empty(MIB, device="sim")
        address = x.data_ptr()
        x.fill_(1)
        x.record_stream(torch.accelerator.current_stream())  # of no use, and so without effect
        del x
        assert torch.empty(MIB, device="sim").data_ptr() == address


def test_a_block_is_not_reused_on_another_stream() -> None:
    x = torch.empty(MIB, device="sim")
    address = x.data_ptr()
    del x
    with torch.Stream(device="sim"):
        assert torch.empty(MIB, device="sim").data_ptr() != address


def test_record_stream_keeps_a_block_until_that_stream_is_done() -> None:
    stream = torch.Stream(device="sim")
    x = torch.empty(MIB, device="sim")
    address = x.data_ptr()
    with simacc.hold(stream):
        x.record_stream(stream)
        del x
        other = torch.empty(MIB, device="sim")
        assert other.data_ptr() != address
    stream.synchronize()
    assert torch.empty(MIB, device="sim").data_ptr() == address
    assert simacc.stats()["record_stream"] == 1


def test_the_allocator_orders_nothing_for_the_program() -> None:
    """That it saw the end of a stream's work, to reuse a block, is no wait of the program's."""
    stream = torch.Stream(device="sim")
    x = torch.zeros(64, device="sim")
    temporary = torch.zeros(MIB, device="sim")
    address = temporary.data_ptr()
    host = torch.empty(64, pin_memory=True)
    stream.wait_event(torch.accelerator.current_stream().record_event())
    with stream:
        host.copy_(x, non_blocking=True)
        simacc.launch(lambda _: None, reads=[temporary])
    temporary.record_stream(stream)
    del temporary
    while torch.empty(MIB, device="sim").data_ptr() != address:
        pass
    assert simacc.races() == []  # but the block's next owner is after its last one
    simacc.host_access(host)
    assert len(simacc.races()) == 1


@pytest.mark.parametrize(("poison", "is_race"), [(0, False), (1, False), (2, True)])
def test_poison_at_free_is_stricter_than_any_allocator(poison: int, is_race: bool) -> None:
    simacc.configure(poison=poison)
    x = torch.ones(4096, device="sim")
    stream = torch.Stream(device="sim")
    stream.wait_event(torch.accelerator.current_stream().record_event())
    host = torch.empty(4096, pin_memory=True)
    with stream:
        host.copy_(x, non_blocking=True)
    del x  # never reused: only the free itself can race
    stream.synchronize()
    assert bool(simacc.races()) == is_race


def test_poison_at_reuse_finds_a_block_that_is_still_read() -> None:
    x = torch.ones(4096, device="sim")
    stream = torch.Stream(device="sim")
    stream.wait_event(torch.accelerator.current_stream().record_event())
    host = torch.empty(4096, pin_memory=True)
    with stream:
        host.copy_(x, non_blocking=True)
    del x
    torch.empty(4096, device="sim")
    assert any("reuse of freed block" in race for race in simacc.races())


def test_a_reused_block_holds_poison() -> None:
    x = torch.zeros(1000, dtype=torch.uint8, device="sim")
    del x
    assert (torch.empty(1000, dtype=torch.uint8, device="sim") == 0xCB).all()


def test_capacity_is_each_devices() -> None:
    x = torch.empty(MIB, dtype=torch.uint8, device="sim")
    taken = torch.sim.memory_allocated()
    simacc.configure(capacity=taken + MIB)
    y = torch.empty(MIB, dtype=torch.uint8, device="sim")
    with pytest.raises(torch.OutOfMemoryError, match="simacc out of memory"):
        torch.empty(1, dtype=torch.uint8, device="sim")
    torch.empty(MIB, dtype=torch.uint8, device="sim:1")
    del x, y
    torch.empty(2 * MIB, dtype=torch.uint8, device="sim")


def test_a_storage_is_resized_as_fsdp_does() -> None:
    x = torch.arange(8, device="sim")
    storage = x.untyped_storage()
    size = storage.nbytes()
    storage.resize_(size // 2)
    storage.resize_(size)
    assert x[:4].tolist() == [0, 1, 2, 3]
    storage.resize_(0)
    assert storage.nbytes() == 0


def test_memory_statistics() -> None:
    before = torch.sim.memory_allocated()
    x = torch.empty(MIB, dtype=torch.uint8, device="sim")
    assert torch.sim.memory_allocated() == before + MIB
    assert torch.accelerator.memory_allocated() == before + MIB
    del x
    assert torch.sim.memory_allocated() == before
    assert simacc.stats()["peak_bytes"] >= before + MIB
