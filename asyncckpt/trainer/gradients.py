"""Gradients: those of all that the optimizers train, and what is done with all of them at once.

On a CPU torch goes through them one by one, in Python. All at once, of 28 in a step of 10 ms, they are clipped in
0.66 ms instead of 0.70, and cleared in 0.05 ms instead of 0.25.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_PLAIN = (Tensor, nn.Parameter)


class Gradients:
    """Those of `optimizers`."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        groups = (group["params"] for optimizer in optimizers for group in optimizer.param_groups)
        self.parameters: list[nn.Parameter] = list(dict.fromkeys(itertools.chain.from_iterable(groups)))
        """Each once, though several may train it."""
        self._usual = [optimizer for optimizer in optimizers if _is_usual(optimizer)]
        self._others = [optimizer for optimizer in optimizers if not _is_usual(optimizer)]
        is_plain = all(type(parameter) in _PLAIN and parameter.is_cpu for parameter in self.parameters)
        self._at_once = True if is_plain else None  # on other devices torch knows best

    def state_dict(self) -> dict[str, Any]:
        """Those that there are, by the numbers of their parameters."""
        found = enumerate(parameter.grad for parameter in self.parameters)
        return {str(number): _held(gradient) for number, gradient in found if gradient is not None}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Have those that `state_dict` gave, in each parameter's order of memory: norms add up in it."""
        for number, held in state_dict.items():
            parameter = self.parameters[int(number)]
            parameter.grad = _placed(held, parameter)

    def clip(self, max_norm: float) -> Tensor:
        """Scale all so that their norm is no larger than that; the norm that it was."""
        return nn.utils.clip_grad_norm_(self.parameters, max_norm, foreach=self._at_once)

    def scale(self, factor: float) -> None:
        """Multiply all by `factor`."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def clear(self) -> None:
        """Have none: as ``zero_grad(set_to_none=True)``, which is what is called where an optimizer has its own."""
        for optimizer in self._usual:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        for optimizer in self._others:
            optimizer.zero_grad(set_to_none=True)


def _held(gradient: Tensor) -> Any:
    """What a checkpoint can hold of it: of a sparse one its parts, in their order, in which they are added up."""
    if gradient.layout is not torch.sparse_coo:
        return gradient
    return {
        "indices": gradient._indices(),
        "values": gradient._values(),
        "shape": list(gradient.shape),
        "coalesced": gradient.is_coalesced(),
    }


def _placed(held: Any, parameter: Tensor) -> Tensor:
    if isinstance(held, Tensor):
        return torch.empty_like(parameter, dtype=held.dtype, requires_grad=False).copy_(held)
    return torch.sparse_coo_tensor(
        held["indices"],
        held["values"].clone(),
        held["shape"],
        device=parameter.device,
        check_invariants=True,
        is_coalesced=held["coalesced"],
    )


def _is_usual(optimizer: Optimizer) -> bool:
    return type(optimizer).zero_grad is Optimizer.zero_grad and "zero_grad" not in vars(optimizer)


def has_gradients(optimizer: Optimizer) -> bool:
    """Whether there is a gradient of what it trains."""
    return any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"])
