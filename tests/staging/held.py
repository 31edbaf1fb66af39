"""Holding the copier, and what a checkpoint then has of tensors that changed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.staging import schedule
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import PATIENCE

from ..checkpointer.trainings import calls_of

COPIER = "asyncckpt-copy"


class Gate:
    """Stands in for `copy_group`: the copier's calls wait until `open`, those of the training thread do not."""

    def __init__(self) -> None:
        self.groups = 0
        self._copy = schedule.copy_group
        self._opened = threading.Event()
        self._entered = threading.Event()

    def __call__(self, destinations: Any, sources: Any, *, non_blocking: bool = False) -> None:
        if threading.current_thread().name == COPIER and sources:
            self.groups += 1
            self._entered.set()
            assert self._opened.wait(PATIENCE)
        self._copy(destinations, sources, non_blocking=non_blocking)

    def wait_entered(self) -> None:
        """Return once the copier is about to copy."""
        assert self._entered.wait(PATIENCE), "nothing is copied in the background"

    def open(self) -> None:
        """Let it copy."""
        self._opened.set()


@contextmanager
def waiting(call: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run `call` in a thread that is inside a guard, waiting for a copy, when the block begins; joined after it."""
    thread = threading.Thread(target=call)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not _waits(thread):
        assert thread.is_alive(), "it did not wait for the copy"
        assert time.monotonic() < deadline
    yield thread
    thread.join(PATIENCE)
    assert not thread.is_alive()


def _waits(thread: threading.Thread) -> bool:
    calls = calls_of(thread.ident or 0)
    return "guard" in calls and calls[0] == "wait"


def saved(**parts: Any) -> dict[str, Any]:
    """What a checkpoint of `parts` holds."""
    store = MemoryStorage("saved")
    with AsyncCheckpointer(store, **parts) as checkpointer:
        checkpointer.save(1).wait()
    return asyncckpt.load(store).state


def tensors(state: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor in a nested state by its path, random state left out."""
    if isinstance(state, Tensor):
        return {path: state}
    items: Any = ()
    if isinstance(state, Mapping):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    found: dict[str, Tensor] = {}
    for key, item in items:
        if path or key != "rng":
            found |= tensors(item, f"{path}.{key}" if path else str(key))
    return found


def late(gate: Gate, change: Callable[[], object], *, exclude: tuple[str, ...] = (), **parts: Any) -> set[str]:
    """The tensors of `parts` that a checkpoint holds as they were after `change`, made before anything is copied.

    Nobody is asked before `change`, so that these are the LAZY ones, and all others the EAGER ones.
    """
    store = MemoryStorage("late")
    with AsyncCheckpointer(store, verify="off", save=SavePolicy(exclude=exclude), **parts) as checkpointer:
        handle = checkpointer.save(1)
        parts = {name: part for name, part in parts.items() if name not in exclude}
        before = {name: tensor.clone() for name, tensor in tensors(_live(parts)).items()}
        change()
        after = tensors(_live(parts))
        gate.open()
        handle.wait()
    found = tensors(asyncckpt.load(store).state)
    assert found.keys() == before.keys()
    unchanged = [name for name in found if torch.equal(before[name], after[name])]
    assert not unchanged, "a tensor that did not change says nothing"
    assert all(torch.equal(t, before[name]) or torch.equal(t, after[name]) for name, t in found.items())
    return {name for name, tensor in found.items() if torch.equal(tensor, after[name])}


def _live(part: Any) -> Any:
    if isinstance(part, asyncckpt.staging.guards.Guarded):
        return _live(part.target)
    if isinstance(part, Mapping):
        return {name: _live(item) for name, item in part.items()}
    if isinstance(part, list):
        return [_live(item) for item in part]
    return part.state_dict()


def add_one(*states: Any) -> Callable[[], None]:
    """Changes every tensor of `states` in place, behind the back of all guards."""

    def change() -> None:
        with torch.no_grad():
            for state in states:
                for tensor in tensors(_live(state)).values():
                    tensor.add_(1)

    return change


class Net(nn.Module):
    """Parameters, a buffer that the forward pass changes, and one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *, width: int = 4) -> None:
    """One step on random data."""
    model(torch.randn(8, width)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
