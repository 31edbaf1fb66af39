"""What the simulator is for: a copy beside training is right, and each safety measure that is left out is found."""

from __future__ import annotations

import gc

import pytest
import torch

from asyncckpt.testing import simacc
from tests.simacc.copier import Copier, Flaw
from tests.simacc.model import are_equal, forward_backward, make_trained, values


def test_a_guarded_step_neither_blocks_the_host_nor_tears_the_copy() -> None:
    model, optimizer = make_trained()
    copier = Copier()
    parameters = dict(model.named_parameters())
    wanted = values(parameters)
    with simacc.hold(copier.stream):
        copies = copier.begin(parameters)
        optimizer.register_step_pre_hook(lambda *_: copies.guard())
        forward_backward(model)
        optimizer.step()
        assert not torch.accelerator.current_stream().query()
    copies.wait()
    assert are_equal(copies.host, wanted)
    torch.accelerator.synchronize()
    assert not are_equal(values(parameters), wanted)  # training did move on


def test_an_unguarded_step_tears_the_copy_and_is_found() -> None:
    model, optimizer = make_trained()
    copier = Copier()
    parameters = dict(model.named_parameters())
    wanted = values(parameters)
    with simacc.hold(copier.stream):
        copies = copier.begin(parameters)
        forward_backward(model)
        optimizer.step()
        torch.accelerator.current_stream().synchronize()
    copies.wait()
    assert not are_equal(copies.host, wanted)
    assert any("write by stream 0" in race and "read by stream" in race for race in simacc.races())


@pytest.mark.parametrize("flaw", [None, "no fence"])
def test_the_copy_has_to_wait_for_the_current_stream(flaw: Flaw | None) -> None:
    model, optimizer = make_trained()
    parameters = dict(model.named_parameters())
    torch.accelerator.synchronize()
    copier = Copier(flaw=flaw)
    with simacc.hold(torch.accelerator.current_stream()) as release:
        forward_backward(model)
        optimizer.step()
        copies = copier.begin(parameters)
        if flaw is None:
            release()
        copies.wait()
        got = {name: tensor.clone() for name, tensor in copies.host.items()}
    assert are_equal(got, values(parameters)) == (flaw is None)
    assert bool(simacc.races()) == (flaw is not None)


def test_buffers_that_forward_changes_need_more_than_a_step_hook() -> None:
    model, _ = make_trained()
    copier = Copier()
    buffers = dict(model.named_buffers())
    wanted = values(buffers)
    with simacc.hold(copier.stream):
        copies = copier.begin(buffers)
        model(torch.randn(16, 64, device="sim"))
        torch.accelerator.current_stream().synchronize()
    copies.wait()
    assert not are_equal(copies.host, wanted)
    assert any("batch_norm" in race for race in simacc.races())


def test_the_host_reads_before_the_event() -> None:
    copier = Copier()
    with simacc.hold(copier.stream):
        copies = copier.begin({"x": torch.ones(1024, device="sim")})
        simacc.host_access(copies.host["x"])
        assert any(race.startswith("read by HOST (MainThread) races") for race in simacc.races())
    copies.wait()
    simacc.host_access(copies.host["x"])


def test_an_event_recorded_before_the_copies_orders_nothing() -> None:
    copies = Copier(flaw="event before copies").begin({"x": torch.ones(1024, device="sim")})
    copies.wait()
    simacc.host_access(copies.host["x"])
    assert any("HOST" in race for race in simacc.races())


@pytest.mark.parametrize("flaw", [None, "no record_stream"])
def test_a_temporary_that_another_stream_reads_is_recorded_on_it(flaw: Flaw | None) -> None:
    copier = Copier(flaw=flaw)
    x = torch.full((4096,), 3.0, device="sim")
    torch.accelerator.synchronize()
    with simacc.hold(copier.stream):
        copies = copier.begin({"x": x}, dtype=torch.bfloat16)
        gc.collect()
        torch.full((4096,), 7.0, device="sim", dtype=torch.bfloat16)  # takes the block, where it can be had
        torch.accelerator.current_stream().synchronize()
    copies.wait()
    assert bool((copies.host["x"] == 3).all()) == (flaw is None)
    assert bool(simacc.races()) == (flaw is not None)


def test_a_slot_is_filled_again_while_it_is_being_read() -> None:
    copier = Copier()
    x = torch.ones(1024, device="sim")
    copier.begin({"x": x}).wait()
    copies = copier.begin({"x": x})
    simacc.host_access(copies.host["x"])
    assert simacc.races()


def test_the_hot_path_neither_waits_nor_pins() -> None:
    model, _ = make_trained()
    copier = Copier()
    parameters = dict(model.named_parameters())
    copier.begin(parameters).wait()
    simacc.reset()
    with simacc.hold(copier.stream):
        copies = copier.begin(parameters)
        copies.guard()
        assert simacc.stats()["d2h_pinned"] == len(parameters)
        assert "host_syncs" not in simacc.stats()
        assert "pinned_allocs" not in simacc.stats()
    copies.wait()


def test_a_copy_that_fails_surfaces_where_it_is_waited_for() -> None:
    copier = Copier()
    simacc.configure(fail_copy_after=1)
    copier.begin({"x": torch.ones(16, device="sim")}).wait()
    copies = copier.begin({"x": torch.ones(16, device="sim")})
    with pytest.raises(RuntimeError, match="injected failure of a device-to-host copy"):
        copies.wait()
    copier.begin({"x": torch.ones(16, device="sim")}).wait()  # one fails, not all


def test_a_second_device() -> None:
    copies = Copier("sim:1").begin({"x": torch.full((16,), 5.0, device="sim:1")})
    copies.guard()
    copies.wait()
    assert (copies.host["x"] == 5).all()
