"""A snapshot larger than the memory that there is for it goes through a window, bit for bit, and never takes more."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, allowance
from asyncckpt.allowance import Allowance
from asyncckpt.errors import SaveFailed, WorkerCrashed
from asyncckpt.events import Fallback
from asyncckpt.staging import schedule
from asyncckpt.staging.arena import PAGE, Arena
from asyncckpt.staging.window import least, occupied
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import ObjectInfo, Parts, PutMode
from asyncckpt.storage.cutting import blocks
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from ..checkpointer.trainings import Recorder, worker_of
from .held import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux only")

MB = 1 << 20
WINDOW = 170 * MB


class Big(nn.Module):
    """240 MiB, a fifth of it in a buffer, which is EAGER, and some of it in small and strided tensors."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ParameterList(nn.Parameter(torch.randn(48 * MB // 4, generator=generator)) for _ in range(4))
        self.small = nn.ParameterList(nn.Parameter(torch.randn(10, generator=generator)) for _ in range(300))
        self.strided = nn.Parameter(torch.randn(500, 300, generator=generator).t())
        self.register_buffer("table", torch.randn(24 * MB // 4, generator=generator))
        self.register_buffer("other", torch.randn(20 * MB // 4, generator=generator))


class Run:
    """A training of a big model with too little memory, and what its arena took at most."""

    def __init__(self, root: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.model = Big()
        self.optimizer = torch.optim.SGD(self.model.parameters())
        self.recorder = Recorder()
        self.taken = 0
        options.setdefault("budget", WINDOW)
        self.checkpointer = AsyncCheckpointer(
            root, model=self.model, optimizer=self.optimizer, listeners=[self.recorder], **options
        )
        copy = schedule.copy_group

        def watched(destinations: Any, sources: Any, *, non_blocking: bool = False) -> None:
            copy(destinations, sources, non_blocking=non_blocking)
            self.look()

        monkeypatch.setattr(schedule, "copy_group", watched)

    def look(self) -> None:
        for arena in tuple(self.checkpointer._saver._arenas._leased.values()):
            assert arena.descriptor is not None
            self.taken = max(self.taken, os.fstat(arena.descriptor.fileno()).st_blocks * 512)

    def change(self) -> None:
        """What an optimizer step does, guarded like one."""
        self.checkpointer.before_mutation()
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                tensor.add_(1)

    def state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


def same(state: dict[str, torch.Tensor], found: dict[str, Any]) -> bool:
    return state.keys() == found.keys() and all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_P3_a_state_larger_than_the_budget_goes_through_it_bit_for_bit(
    executor: Literal["thread", "process"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    run = Run(tmp_path / "run", monkeypatch, executor=executor)
    expected = []
    with run.checkpointer as checkpointer:
        for step in (1, 2):  # the second finds nothing of the first in the arena
            expected.append(run.state())
            handle = checkpointer.save(step)
            run.change()
            handle.wait(PATIENCE)
        for step, state in enumerate(expected, 1):
            assert same(state, asyncckpt.load(tmp_path / "run", step).state["model"])
    assert MB < run.taken <= WINDOW
    told = {event.feature: event.reason for event in run.recorder.of(Fallback)}
    assert "goes through 178,257,920 bytes of memory" in told["staging window"]
    assert "the optimizer waits until the store has taken" in told["staging window"]


class Keeping(MemoryStorage):
    """Takes all parts before it uses one, as a store may that sends several at once."""

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        return await super().put(key, [block async for block in blocks(parts, 8 * MB)], length=length, mode=mode)


def test_P3_memory_that_was_given_back_is_not_what_a_store_has_yet_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Keeping("keeping")
    run = Run(store, monkeypatch, executor="thread")
    with run.checkpointer as checkpointer:
        expected = run.state()
        checkpointer.save(1)
        run.change()
    assert run.taken <= WINDOW
    assert same(expected, asyncckpt.load(store, 1).state["model"])


def test_P3_the_optimizer_waits_for_the_store_and_a_save_that_fails_lets_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GatedStorage(MemoryStorage("full"))
    store.fail("put", "data/*", lambda: asyncckpt.errors.StorageDenied("no room"))
    run = Run(store, monkeypatch, executor="thread")
    with run.checkpointer as checkpointer:
        handle = checkpointer.save(1)
        run.change()  # returns, although nobody takes anything any more
        with pytest.raises(SaveFailed, match="no room"):
            handle.wait(PATIENCE)
        store.heal()
        expected = run.state()
        handle = checkpointer.save(2)
        run.change()
        handle.wait(PATIENCE)
    assert same(expected, asyncckpt.load(store, 2).state["model"])


def test_P3_work_that_the_optimizer_waits_for_is_not_held_to_spare_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held for so many steps as long as the last one, it would hold the next one for all of that time."""
    store = MemoryStorage("held")
    run = Run(store, monkeypatch, executor="thread")
    with run.checkpointer as checkpointer:
        checkpointer._executor.pace(0.0, 1e6)
        expected = run.state()
        checkpointer.save(1)
        stepping = threading.Thread(target=run.change)
        stepping.start()
        stepping.join(PATIENCE)
        assert not stepping.is_alive()
    assert same(expected, asyncckpt.load(store, 1).state["model"])


def test_P3_a_worker_that_dies_takes_with_it_what_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    run = Run(tmp_path / "run", monkeypatch, executor="process")
    with run.checkpointer as checkpointer:
        handle = checkpointer.save(1)
        gate.wait_entered()
        os.kill(worker_of(checkpointer), signal.SIGKILL)
        gate.open()
        run.change()
        with pytest.raises(SaveFailed, match="was given back") as failure:
            handle.wait(PATIENCE)
        assert isinstance(failure.value.__cause__, WorkerCrashed)
        expected = run.state()
        handle = checkpointer.save(2)
        run.change()
        handle.wait(PATIENCE)
    assert same(expected, asyncckpt.load(tmp_path / "run", 2).state["model"])


def test_P3_without_a_budget_it_is_what_the_process_may_still_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "memory", lambda: Allowance(180 * MB, "the cgroup /job"))
    store = MemoryStorage("cgroup")
    run = Run(store, monkeypatch, executor="thread", budget=None)
    expected = run.state()
    with run.checkpointer as checkpointer:
        handle = checkpointer.save(1)
        run.change()
        handle.wait(PATIENCE)
    assert same(expected, asyncckpt.load(store).state["model"])
    assert run.taken <= 162 * MB


def test_P3_less_than_a_window_needs_fails_the_save_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(MemoryStorage("none"), monkeypatch, executor="thread", budget=100 * MB)
    told = r"if training may wait for the store\), the budget is 104,857,600"
    with run.checkpointer as checkpointer, pytest.raises(SaveFailed, match=told):
        checkpointer.save(1).wait(PATIENCE)


def test_what_a_window_needs_is_what_is_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(MemoryStorage("plan"), monkeypatch, executor="thread")
    with run.checkpointer as checkpointer:
        plan = checkpointer._saver._preparing.plan(checkpointer._saver._capture.read())
    eager = sum(region.nbytes for region in plan.regions if not region.lazy)
    assert eager <= occupied(plan) < eager + 64 * PAGE + 100_000
    assert occupied(plan) + 112 * MB < least(plan) <= WINDOW


def test_what_is_given_back_is_zero_and_costs_nothing() -> None:
    arena = Arena(10 * PAGE, window=4 * PAGE)
    assert arena.descriptor is not None
    arena.tensor.fill_(7)
    arena.give_back(0, PAGE + 5)
    arena.give_back(PAGE + 5, 3 * PAGE)
    assert os.fstat(arena.descriptor.fileno()).st_blocks * 512 == 7 * PAGE
    assert arena.tensor[: 3 * PAGE].max() == 0
    assert arena.tensor[3 * PAGE :].min() == 7
    assert arena.cost == 4 * PAGE
    assert not arena.pin("cuda")
    assert "given back" in arena.unpinned
