"""The device module, and what a program asks a device: seeds, captures, knobs."""

from __future__ import annotations

import pytest
import torch

from asyncckpt.testing import simacc


def test_the_device_is_the_accelerator() -> None:
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator() == torch.device("sim")
    assert torch.accelerator.device_count() == torch.sim.device_count() == 2
    assert torch.get_device_module("sim") is torch.sim
    assert torch.sim.get_device_name(1) == "simulated accelerator 1"
    assert torch.sim.is_available()
    assert torch.sim.is_initialized()


def test_a_device_can_be_hidden() -> None:
    with simacc.configured(available=False):
        assert not torch.accelerator.is_available()
        assert not torch.sim.is_available()
    assert torch.accelerator.is_available()


def test_the_current_device_is_set_and_restored() -> None:
    with torch.sim.device("sim:1"):
        assert torch.accelerator.current_device_index() == 1
        torch.sim.set_device(0)
    assert torch.sim.current_device() == 0
    with pytest.raises(RuntimeError, match="there is no sim:2"):
        torch.sim.set_device(2)


def test_streams_through_the_module() -> None:
    stream = torch.sim.Stream()
    with torch.sim.stream(stream):
        assert torch.sim.current_stream() == stream
        assert torch.sim.default_stream() != stream
    with torch.sim.stream(None):
        assert torch.sim.current_stream() == torch.sim.default_stream()
    torch.sim.set_stream(stream)
    assert torch.sim.current_stream() == stream
    torch.sim.set_stream(torch.sim.default_stream())
    event = torch.sim.Event()
    event.record(stream)
    event.synchronize()
    torch.sim.synchronize()


def test_random_numbers_are_those_of_the_seed() -> None:
    torch.manual_seed(5)
    first = [torch.randn(4, device="sim"), torch.rand(4, device="sim:1"), torch.randperm(9, device="sim")]
    torch.manual_seed(5)
    again = [torch.randn(4, device="sim"), torch.rand(4, device="sim:1"), torch.randperm(9, device="sim")]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], torch.randn(4, device="sim"))
    assert torch.sim.initial_seed() == 5


def test_random_numbers_do_not_depend_on_when_they_are_made() -> None:
    torch.manual_seed(5)
    torch.randn(4)
    expected = torch.randn(4)
    torch.manual_seed(5)
    with simacc.hold(torch.accelerator.current_stream()):
        torch.randn(4, device="sim")
        dropped = torch.nn.functional.dropout(torch.ones(64, device="sim"), 0.5)
        torch.randn(4)
    assert torch.equal(torch.randn(4), expected)  # the host's own numbers are untouched
    torch.manual_seed(5)
    torch.randn(4, device="sim")
    again = torch.nn.functional.dropout(torch.ones(64, device="sim"), 0.5)
    assert torch.equal(dropped, again)
    assert set(dropped.tolist()) == {0.0, 2.0}


def test_the_state_of_the_generator_goes_there_and_back() -> None:
    states = torch.sim.get_rng_state_all()
    first = torch.randn(4, device="sim")
    with torch.random.fork_rng(devices=[0], device_type="sim"):
        torch.randn(4, device="sim")
    torch.sim.set_rng_state_all(states)
    assert torch.equal(torch.randn(4, device="sim"), first)


def test_a_generator_of_ones_own() -> None:
    generator = torch.Generator("sim").manual_seed(3)
    first = torch.randn(4, device="sim", generator=generator)
    twin = torch.Generator("sim")
    twin.set_state(generator.get_state())
    generator.manual_seed(3)
    assert torch.equal(torch.randn(4, device="sim", generator=generator), first)
    assert torch.equal(torch.randn(4, device="sim", generator=generator), torch.randn(4, device="sim", generator=twin))
    with pytest.raises(RuntimeError, match="Expected a 'sim' device type for generator but found 'cpu'"):
        torch.randn(4, device="sim", generator=torch.Generator())


def test_while_capturing_nothing_may_wait() -> None:
    x = torch.ones(4, device="sim")
    stream = torch.accelerator.current_stream()
    event = stream.record_event()
    assert not torch.sim.is_current_stream_capturing()
    with simacc.configured(capturing=True):
        assert torch.sim.is_current_stream_capturing()
        x.add_(1)
        for call in (
            stream.synchronize,
            stream.query,
            event.synchronize,
            event.query,
            x.nonzero,
            x.cpu,
            x[0].item,
            lambda: torch.empty(1 << 30, pin_memory=True),
        ):
            with pytest.raises(RuntimeError, match="not permitted while a stream is capturing"):
                call()
    assert not torch.sim.is_current_stream_capturing()
    assert x.tolist() == [2, 2, 2, 2]


def test_knobs_have_names() -> None:
    with pytest.raises(ValueError, match=r"simacc has no knob 'bandwidth'; it has .*d2h_bw"):
        simacc.configure(bandwidth=1)


def test_knobs_are_restored() -> None:
    from asyncckpt.testing.simacc import _C

    simacc.configure(d2h_bw=5)
    with simacc.configured(d2h_bw=7, poison=2):
        assert _C.knobs()["d2h_bw"] == 7
    with pytest.raises(ValueError, match="no knob"), simacc.configured(d2h_bw=9, bandwidth=1):
        pass
    assert _C.knobs()["d2h_bw"] == 5
    assert _C.knobs()["poison"] == 1
    simacc.reset_knobs()
    assert _C.knobs()["d2h_bw"] == 0
