"""A training on the simulated device, and what its checkpoints hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.events import Event, Fallback
from asyncckpt.staging.streams import stream_device

from .declaring import Declaring

DEVICE = torch.device("sim", 0)


def side() -> torch.Stream:
    """The stream that snapshots are copied on."""
    return stream_device(DEVICE)._side


class Net(nn.Module):
    """Parameters, and buffers that the forward pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.norm = nn.BatchNorm1d(32)
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.norm(self.first(x)).relu())
        return found


class Training:
    """A model that has made a step, its optimizer, and the store of its checkpoints."""

    def __init__(self, optimizer: Any = torch.optim.AdamW, device: torch.device = DEVICE, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = Net().to(device)
        self.optimizer = optimizer(self.model.parameters(), lr=0.1, **options)
        self.device = device
        self.store = Declaring("devices")
        self.step()

    def checkpointer(self, **options: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(self.store, model=self.model, optimizer=self.optimizer, **options)

    def forward_backward(self) -> Tensor:
        loss: Tensor = self.model(torch.randn(8, 16, device=self.device)).square().mean()
        loss.backward()
        return loss

    def step(self) -> Tensor:
        loss = self.forward_backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that is saved, as it is now; waits for the device."""
        return tensors({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def saved(self, which: Any = "latest") -> dict[str, Tensor]:
        return tensors({k: v for k, v in asyncckpt.load(self.store, which).state.items() if k != "rng"})


class Told:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def fallbacks(self) -> dict[str, str]:
        """What runs slower or weaker, each once, and why."""
        told = [event for event in self.events if isinstance(event, Fallback)]
        found = {event.feature: event.reason for event in told}
        assert len(found) == len(told)
        return found


def tensors(state: Any, path: str = "") -> dict[str, Tensor]:
    """Copies of all tensors of a nested state, in host memory, by path."""
    if isinstance(state, Tensor):
        return {path: state.detach().cpu().clone()}
    if isinstance(state, Mapping):
        items: Any = state.items()
    else:
        items = enumerate(state) if isinstance(state, list | tuple) else ()
    return {name: tensor for key, item in items for name, tensor in tensors(item, f"{path}.{key}").items()}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """The names under which two states do not hold the same bits."""
    assert a.keys() == b.keys()
    return [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(_bits(a[name]), _bits(b[name]))]


def _bits(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def steps_beside_saves(training: Training, checkpointer: AsyncCheckpointer) -> None:
    """Three steps, each beside the save of what was there before it, which is what is saved."""
    for step in (1, 2, 3):
        wanted = training.state()
        handle = checkpointer.save(step)
        training.step()
        handle.wait()
        assert differing(training.saved(), wanted) == []
