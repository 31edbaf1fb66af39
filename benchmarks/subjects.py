"""Subject: what is saved, and one step that changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Subject(Protocol):
    """A training, as far as saving is concerned."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    @property
    def extra(self) -> Mapping[str, nn.Module]:
        """What is saved beside model and optimizer."""
        ...

    def before_update(self, call: Callable[[], None]) -> None:
        """Have `call` called before each change of what is saved."""
        ...

    def step(self) -> None:
        """Change everything that training would change."""
        ...


class Optimized:
    """Parameters and their fused AdamW; each step takes made-up gradients."""

    def __init__(self, parameters: list[Tensor], *, averaged: bool = False) -> None:
        self.model = nn.ParameterList(parameters)
        trained = [p for p in self.model if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        self._trained = trained
        self._average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn()) if averaged else None
        self.extra: Mapping[str, nn.Module] = {"average": self._average} if self._average else {}

    def before_update(self, call: Callable[[], None]) -> None:
        self.optimizer.register_step_pre_hook(lambda *_: call())

    def step(self) -> None:
        for parameter in self._trained:
            parameter.grad = parameter.detach().mul(1e-3)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self._average is not None:
            self._average.update_parameters(self.model)


class Bare:
    """`count` parameters of `numel` numbers, under an optimizer without state; a step changes every number."""

    def __init__(self, count: int, numel: int) -> None:
        self.model = nn.ParameterList(parameters(count, numel))
        self.optimizer = torch.optim.SGD(self.model.parameters())
        self.extra: Mapping[str, nn.Module] = {}
        self._before: list[Callable[[], None]] = []

    def before_update(self, call: Callable[[], None]) -> None:
        self._before.append(call)

    def step(self) -> None:
        for call in self._before:
            call()
        with torch.no_grad():  # gradients of their own would take as much memory again
            for parameter in self.model:
                parameter.add_(1e-3)


class Example:
    """The README's own example, with an exponential average of its model."""

    def __init__(self) -> None:
        self.model = nn.Linear(64, 1)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self._average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn())
        self.extra: Mapping[str, nn.Module] = {"average": self._average}

    def before_update(self, call: Callable[[], None]) -> None:
        self.optimizer.register_step_pre_hook(lambda *_: call())

    def step(self) -> None:
        self.model(torch.randn(32, 64)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._average.update_parameters(self.model)


def parameters(count: int, numel: int) -> list[Tensor]:
    """`count` parameters of `numel` numbers each."""
    return [nn.Parameter(torch.randn(numel)) for _ in range(count)]


def state_of(subject: Subject) -> dict[str, Any]:
    """Its state as torch has it: nested state dicts of the live tensors."""
    state = {"model": subject.model.state_dict(), "optimizer": subject.optimizer.state_dict()}
    return state | {name: module.state_dict() for name, module in subject.extra.items()}


def tensors_of(state: Any, at: str = "") -> dict[str, Tensor]:
    """The tensors of a nested state, by their path."""
    if isinstance(state, Tensor):
        return {at: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {path: t for key, value in items for path, t in tensors_of(value, f"{at}.{key}" if at else str(key)).items()}


def size_of(subject: Subject) -> tuple[int, int]:
    """How many tensors it saves, and their bytes."""
    held = tensors_of(state_of(subject))
    return len(held), sum(t.nbytes for t in held.values())
