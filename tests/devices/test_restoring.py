"""What is restored to a device goes through a few rooms of page-locked memory, filled while others are copied."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor, nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, MetricsConfig
from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.fetching import arriving
from asyncckpt.restores import unloading
from asyncckpt.state import landing
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing import simacc
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .trainings import DEVICE, Told, differing, side, tensors

PIECE = 16 << 10
WIDE = 128


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)


def small(patch: pytest.MonkeyPatch) -> None:
    """Tensors of 64 KiB are big here, and have four requests each; rooms are counted."""
    for module in (arriving, unloading):
        patch.setattr(module, "PIECE", PIECE)
    patch.setattr("asyncckpt.restores.restoring.SMALLEST", WIDE * WIDE)
    patch.setattr("asyncckpt.restores.restoring.PinnedRooms", Counted)


class Training:
    """Eight layers on a device, and AdamW."""

    def __init__(self, seed: int = 0, device: torch.device = DEVICE) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(*(nn.Linear(WIDE, WIDE) for _ in range(8))).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)

    def step(self) -> None:
        self.model(torch.ones(4, WIDE, device=DEVICE)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def checkpointer(self, store: Storage, **options: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(
            store, model=self.model, optimizer=self.optimizer, executor="thread", overwrite=True, **options
        )

    def state(self) -> dict[str, Tensor]:
        return tensors({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})


Open = Callable[[], Storage]


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one that is a local disk, or is none."""
    memory = MemoryStorage("device")
    return (lambda: memory) if request.param == "memory" else (lambda: LocalStorage(tmp_path / "run"))


def saved(store: Storage) -> Training:
    training = Training()
    training.step()
    with training.checkpointer(store) as ckpt:
        ckpt.save(1).wait()
    return training


class Counted(unloading.PinnedRooms):
    """Rooms that are counted; that one is filled again is told to the race detector."""

    def __init__(self, slower: Callable[[str, str], None]) -> None:
        super().__init__(slower)
        Counted.last = self

    last: Any = None

    def lend(self) -> Any:
        room: Any = super().lend()
        simacc.host_access(room.tensor, write=True)
        return room


@pytest.mark.parametrize("has_stepped", [False, True])
def test_a_resumed_training_is_on_its_device_and_came_there_through_a_few_rooms(store: Open, has_stepped: bool) -> None:
    before = saved(store())
    training = Training(1)
    if has_stepped:
        training.step()
    addresses = [parameter.data_ptr() for parameter in training.model.parameters()]
    with training.checkpointer(store()) as ckpt:
        assert ckpt.resume() is not None
    assert differing(training.state(), before.state()) == []
    assert [parameter.data_ptr() for parameter in training.model.parameters()] == addresses
    moments = [value for state in training.optimizer.state.values() for name, value in state.items() if name != "step"]
    assert {value.device for value in moments} == {DEVICE}
    assert 1 < Counted.last._made <= unloading.MOST
    before.step()
    training.step()
    assert differing(training.state(), before.state()) == []


def test_rooms_are_page_locked(store: Open) -> None:
    saved(store())
    with Training(1).checkpointer(store()) as ckpt:
        ckpt.resume()
    assert all(room.tensor.is_pinned() for room in Counted.last._free)


def take_what_is_locked() -> list[Tensor]:
    """All memory for rooms that the allocator has locked, and keeps for whoever comes next."""
    Counted.last = None
    gc.collect()
    torch.accelerator.synchronize()
    before, taken = simacc.stats().get("pinned_allocs", 0), list[Tensor]()
    while simacc.stats().get("pinned_allocs", 0) == before:
        taken.append(torch.empty(PIECE, dtype=torch.uint8, pin_memory=True))
    return taken


def test_T9_rooms_whose_page_locking_fails_half_way_are_told_once_and_fill_the_device_all_the_same(
    store: Open,
) -> None:
    before, told, registry = saved(store()), Told(), CollectorRegistry()
    training, taken = Training(1), take_what_is_locked()
    metrics = MetricsConfig(port=None, registry=registry)
    simacc.configure(fail_pinned_after=2)
    with training.checkpointer(store(), listeners=[told], metrics=metrics) as ckpt:
        ckpt.resume()
        fallen_back = registry.get_sample_value("asyncckpt_fallback", {"feature": "pinned memory"})
    assert differing(training.state(), before.state()) == []
    rooms = [room.tensor.is_pinned() for room in Counted.last._free]
    assert rooms.count(False) == 1
    assert len(rooms) > 3  # the others, after it too
    fallbacks = told.fallbacks()
    assert list(fallbacks) == ["pinned memory"]
    assert "injected failure of a pinned allocation" in fallbacks["pinned memory"]
    assert fallen_back == 1
    assert taken


def test_T9_a_state_that_is_loaded_without_a_checkpointer_logs_that_no_room_can_be_page_locked(
    store: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = saved(store())
    monkeypatch.setattr(torch, "empty", _no_pinned(torch.empty))
    found = asyncckpt.load(store(), device=DEVICE).state
    assert differing(tensors({name: found[name] for name in ("model", "optimizer")}), before.state()) == []
    assert caplog.text.count("fallback, pinned memory: ") == 1


def _no_pinned(empty: Any) -> Any:
    def made(*size: Any, **options: Any) -> Tensor:
        if options.get("pin_memory"):
            raise RuntimeError("RLIMIT_MEMLOCK")
        found: Tensor = empty(*size, **options)
        return found

    return made


def test_requests_go_on_while_the_device_copies_and_stop_when_all_rooms_are_full() -> None:
    store = GatedStorage(MemoryStorage("device"))
    before = saved(store)
    training = Training(1)
    with training.checkpointer(store) as ckpt:
        store.calls.clear()
        with simacc.hold(side()):
            resuming = threading.Thread(target=ckpt.resume)
            resuming.start()
            deadline = time.monotonic() + PATIENCE
            while store.count("get", "*.safetensors") < 1 + unloading.MOST:  # the header, and every room
                assert resuming.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.001)
            assert resuming.is_alive()
            assert store.count("get", "*.safetensors") == 1 + unloading.MOST
        resuming.join(PATIENCE)
    assert store.count("get", "*.safetensors") > 4 * unloading.MOST
    assert differing(training.state(), before.state()) == []


def test_what_the_device_still_reads_is_not_written_over(store: Open) -> None:
    before = saved(store())
    training = Training(1)
    with training.checkpointer(store()) as ckpt:
        with simacc.hold(torch.accelerator.current_stream(DEVICE)) as gate:
            out = training.model(torch.ones(4, WIDE, device=DEVICE))
            resuming = threading.Thread(target=ckpt.resume)
            resuming.start()
            gate()
            resuming.join(PATIENCE)
        assert torch.isfinite(out).all()
    assert differing(training.state(), before.state()) == []


def test_a_state_is_loaded_onto_a_device_the_same_way(store: Open) -> None:
    before = saved(store())
    found = asyncckpt.load(store(), device=DEVICE).state
    assert found["model"]["0.weight"].device == DEVICE
    assert differing(tensors({name: found[name] for name in ("model", "optimizer")}), before.state()) == []
    assert 1 < Counted.last._made <= unloading.MOST


def test_a_restore_changes_nothing_on_the_device_unless_every_byte_is_sound(tmp_path: Path) -> None:
    saved(LocalStorage(tmp_path / "run"))
    shutil.copytree(tmp_path / "run", tmp_path / "other", symlinks=True)
    (pack,) = (tmp_path / "other").glob("data/*/*.safetensors")
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    training = Training(1)
    wanted = training.state()
    with training.checkpointer(LocalStorage(tmp_path / "other")) as ckpt, pytest.raises(CheckpointCorruptError):
        ckpt.restore()
    assert differing(training.state(), wanted) == []


def test_parameters_of_all_forms_are_where_bytes_can_be_copied_to() -> None:
    assert list(landing.landing({"it": nn.Parameter(torch.zeros(4, 4, device=DEVICE))})) == ["it"]
    assert landing.landing({"it": torch.zeros(4, 4, device=DEVICE).t()}) == {}
