"""Gradients: those of all that the optimizers train, and what is done with all of them at once.

On a CPU torch goes through them one by one, in Python. All at once, of 28 in a step of 10 ms, they are clipped in
0.66 ms instead of 0.70, and cleared in 0.05 ms instead of 0.25.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

_PLAIN = (Tensor, nn.Parameter)


class Gradients:
    """Those of `optimizers`."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.parameters: list[nn.Parameter] = [
            parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]
        ]
        self._usual = [optimizer for optimizer in optimizers if _is_usual(optimizer)]
        self._others = [optimizer for optimizer in optimizers if not _is_usual(optimizer)]
        is_plain = all(type(parameter) in _PLAIN and parameter.is_cpu for parameter in self.parameters)
        self._at_once = True if is_plain else None  # on other devices torch knows best

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


def _is_usual(optimizer: Optimizer) -> bool:
    return type(optimizer).zero_grad is Optimizer.zero_grad and "zero_grad" not in vars(optimizer)
