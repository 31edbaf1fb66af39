"""Draws after a restore equal the draws after the capture, on every generator there is; the rest is said."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch

from asyncckpt.state.rng import capture_rng, restore_rng
from asyncckpt.state.values import decode, encode

NUMPY: Any = np.random
"""Untyped: numpy's stubs leave out the functions that exchange the global generator."""


@pytest.fixture(autouse=True)
def other_tests_keep_their_randomness() -> Iterator[None]:
    before = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def draws() -> list[object]:
    """Odd counts, so that generators which make normal numbers in pairs hold one back."""
    return [
        [random.gauss(0, 1), random.getrandbits(99)],
        np.random.standard_normal(3).tolist(),
        [np.random.randint(1 << 31), np.random.random()],
        torch.randn(3).tolist(),
        torch.randn(99).tolist(),
        torch.randint(1 << 60, (3,)).tolist(),
    ]


def through_a_checkpoint(state: dict[str, Any]) -> Any:
    tensors: dict[tuple[str, ...], torch.Tensor] = {}
    return decode(encode(state, ("rng",), tensors.__setitem__), tensors.__getitem__)


@pytest.mark.parametrize("carry", [lambda state: state, through_a_checkpoint], ids=["direct", "encoded"])
def test_draws_after_restore_equal_draws_after_capture(carry: Callable[[Any], Any]) -> None:
    random.seed(7)
    np.random.seed(8)
    torch.manual_seed(9)
    draws()
    state = carry(capture_rng())
    expected = draws()
    draws()

    assert restore_rng(state) == []
    assert draws() == expected


def test_a_held_back_normal_number_is_part_of_the_state() -> None:
    random.gauss(0, 1)
    np.random.standard_normal()
    state = capture_rng()
    expected = random.gauss(0, 1), np.random.standard_normal()

    random.seed(1)
    np.random.seed(1)
    restore_rng(state)

    assert (random.gauss(0, 1), np.random.standard_normal()) == expected


def test_capture_changes_no_draw_and_later_draws_do_not_change_what_was_captured() -> None:
    random.seed(7)
    np.random.seed(8)
    torch.manual_seed(9)
    expected = draws()

    random.seed(7)
    np.random.seed(8)
    torch.manual_seed(9)
    state = capture_rng()

    assert draws() == expected
    assert restore_rng(state) == []
    assert draws() == expected
    assert restore_rng(state) == []
    assert draws() == expected


@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.Philox, np.random.SFC64, np.random.MT19937])
def test_numpy_with_another_bit_generator_behind_its_global_functions(generator: Any) -> None:
    original = NUMPY.get_bit_generator()
    try:
        NUMPY.set_bit_generator(generator(3))
        state = through_a_checkpoint(capture_rng())
        expected = draws()
        assert restore_rng(state) == []
        assert draws() == expected
    finally:
        NUMPY.set_bit_generator(original)


def test_a_state_of_another_bit_generator_is_said_and_the_rest_is_restored() -> None:
    original = NUMPY.get_bit_generator()
    try:
        NUMPY.set_bit_generator(np.random.PCG64(3))
        state = capture_rng()
    finally:
        NUMPY.set_bit_generator(original)
    expected = random.random(), torch.rand(1)

    (note,) = restore_rng(state)

    assert "numpy" in note
    assert (random.random(), torch.rand(1)) == expected


def test_numpy_that_is_not_imported_is_not_captured_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy.random")
    assert "numpy" not in capture_rng()
    assert "numpy.random" not in sys.modules


def test_a_process_without_numpy_reads_the_state_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors: dict[tuple[str, ...], torch.Tensor] = {}
    data = encode(capture_rng(), ("rng",), tensors.__setitem__)
    expected = random.random(), torch.rand(1)
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.setitem(sys.modules, "numpy.random", None)

    state: Any = decode(data, tensors.__getitem__)
    (note,) = restore_rng(state)

    assert note.startswith("numpy's random state was not restored: ModuleNotFoundError")
    assert (random.random(), torch.rand(1)) == expected


def test_a_checkpoint_without_numpy_leaves_numpy_alone_and_says_so() -> None:
    state = capture_rng()
    del state["numpy"]
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)

    assert restore_rng(state) == ["numpy: no random state in the checkpoint, goes on as it is"]
    assert np.random.random() == expected


def test_a_state_of_another_version_is_said_and_the_rest_is_restored() -> None:
    state = capture_rng()
    expected = np.random.random()
    state["python"] = (99, (), None)
    state["torch"] = torch.zeros(3, dtype=torch.uint8)

    notes = restore_rng(state)

    assert [note.split(" was not restored")[0] for note in notes] == [
        "python's random state",
        "torch's random state",
    ]
    assert np.random.random() == expected


# -- devices -----------------------------------------------------------------------------------------------


class SimulatedDevices:
    """A device module as torch's simplest is (mps): one generator per device, and nothing to initialise."""

    def __init__(self, count: int) -> None:
        self._generators = [torch.Generator().manual_seed(index) for index in range(count)]

    def device_count(self) -> int:
        return len(self._generators)

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        return self._generators[device.index].get_state()

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        self._generators[device.index].set_state(state)

    def manual_seed(self, seed: int) -> None:
        for generator in self._generators:
            generator.manual_seed(seed)

    def draws(self) -> list[list[float]]:
        return [torch.rand(3, generator=generator).tolist() for generator in self._generators]


class LazyDevices(SimulatedDevices):
    """A device module as torch.cuda is: what is called before it is initialised waits in a queue."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.initialised = False
        self._setters: list[Callable[[], object]] = []
        self._seeds: list[Callable[[], object]] = []

    def is_initialized(self) -> bool:
        return self.initialised

    def init(self) -> None:
        # The order is torch's own (torch/cuda/__init__.py, _lazy_init): setters, and then every seed.
        self.initialised = True
        for call in [*self._setters, *self._seeds]:
            call()
        self._setters, self._seeds = [], []

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        self.init()
        return super().get_rng_state(device)

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        self._setters.append(partial(super().set_rng_state, state, device))
        if self.initialised:
            self.init()

    def manual_seed(self, seed: int) -> None:
        self._seeds.append(partial(super().manual_seed, seed))
        if self.initialised:
            self.init()

    def draws(self) -> list[list[float]]:
        self.init()
        return super().draws()


Plug: TypeAlias = Callable[..., None]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Makes simulated devices torch's current accelerator: no machine without one has any to offer."""

    def plug(devices: SimulatedDevices, kind: str = "cuda") -> None:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(torch, "get_device_module", lambda device: devices)

    return plug


@pytest.mark.parametrize("kind", [SimulatedDevices, LazyDevices])
def test_every_device_is_captured_and_restored(plug: Plug, kind: type[SimulatedDevices]) -> None:
    devices = kind(3)
    plug(devices)
    devices.draws()
    state = through_a_checkpoint(capture_rng())
    expected = devices.draws()
    devices.draws()

    assert list(state["devices"]) == ["cuda:0", "cuda:1", "cuda:2"]
    assert restore_rng(state) == []
    assert devices.draws() == expected


def test_fewer_devices_than_stored(plug: Plug) -> None:
    first, second = SimulatedDevices(4), SimulatedDevices(2)
    first.manual_seed(42)
    plug(first)
    state = capture_rng()
    expected = first.draws()
    plug(second)

    assert restore_rng(state) == [
        "the random state of cuda:2, cuda:3 was not restored: this process has no such device"
    ]
    assert second.draws() == expected[:2]


def test_more_devices_than_stored(plug: Plug) -> None:
    first, second = SimulatedDevices(1), SimulatedDevices(3)
    first.manual_seed(42)
    plug(first)
    state = capture_rng()
    (expected,) = first.draws()
    untouched = SimulatedDevices(3).draws()[1:]
    plug(second)

    assert restore_rng(state) == ["cuda:1, cuda:2: no random state in the checkpoint, goes on as it is"]
    assert second.draws() == [expected, *untouched]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_devices_that_are_gone_altogether() -> None:
    state = {**capture_rng(), "devices": {"cuda:0": torch.get_rng_state(), "cuda:1": torch.get_rng_state()}}
    assert restore_rng(state) == [
        "the random state of cuda:0, cuda:1 was not restored: this process has no such device"
    ]


def test_devices_of_another_kind_are_not_taken_for_these(plug: Plug) -> None:
    plug(SimulatedDevices(1))
    state = capture_rng()
    plug(SimulatedDevices(1), "xpu")

    missing, more = restore_rng(state)

    assert missing == "the random state of cuda:0 was not restored: this process has no such device"
    assert more.startswith("xpu:0:")


def test_an_accelerator_that_is_not_in_use_is_not_brought_to_life(plug: Plug) -> None:
    devices = LazyDevices(2)
    plug(devices)

    state = capture_rng()

    assert state["devices"] == {}
    assert restore_rng(state) == []
    assert not devices.initialised


def test_a_seed_queued_before_initialisation_does_not_undo_the_restore(plug: Plug) -> None:
    first, second = SimulatedDevices(2), LazyDevices(2)
    first.manual_seed(42)
    plug(first)
    state = capture_rng()
    expected = first.draws()
    plug(second)
    second.manual_seed(1)

    assert restore_rng(state) == []
    assert second.draws() == expected


def test_a_device_state_that_does_not_fit_is_said_by_name(plug: Plug) -> None:
    devices = SimulatedDevices(2)
    plug(devices)
    state = capture_rng()
    expected = devices.draws()
    state["devices"]["cuda:0"] = torch.zeros(1, dtype=torch.uint8)

    (note,) = restore_rng(state)

    assert note.startswith("the random state of cuda:0 was not restored: ")
    assert devices.draws()[1] == expected[1]


def test_an_accelerator_that_torch_was_built_for_and_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def current_accelerator() -> torch.device:
        # As torch 2.6 does; later ones answer with the kind of device they were built for.
        raise RuntimeError("Cannot access accelerator device when none is available.")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)

    assert restore_rng(capture_rng()) == []


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="this machine has no accelerator")
def test_the_real_accelerator() -> None:
    device = torch.accelerator.current_accelerator()
    torch.randn(3, device=device)
    state = through_a_checkpoint(capture_rng())
    expected = torch.randn(99, device=device).cpu()
    assert restore_rng(state) == []
    assert torch.equal(torch.randn(99, device=device).cpu(), expected)
