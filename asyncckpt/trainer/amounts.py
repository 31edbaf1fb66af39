"""Amounts: numbers that are added up over batches. On a device they stay there: to read one waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from asyncckpt.errors import TrainerError

Amount: TypeAlias = float | Tensor


def is_amount(value: Any) -> TypeGuard[Amount]:
    """Whether it is one number."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, Real)


def weighted(name: str, value: Any, samples: int) -> Amount:
    """`value` times `samples`, in double precision; raises `TrainerError` for what is no number."""
    if not is_amount(value):
        raise TrainerError(f"{name!r} is {value!r}: give a number, or a tensor with one element")
    if not isinstance(value, Tensor):
        return float(value) * samples
    if value.is_cpu:  # to read it waits for nothing, and costs less than a tensor
        return float(value.item()) * samples
    precise = torch.float32 if value.device.type == "mps" else torch.float64
    return value.detach().reshape(()).to(precise) * samples


def read(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers, as floats."""
    return {name: float(value) for name, value in values.items() if is_amount(value)}


def samples_of(batch: Any) -> int:
    """How many samples a batch holds: the length of its first tensor, and 1 where it has none."""
    if isinstance(batch, Tensor):
        return batch.size(0) if batch.dim() else 1
    inside = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((samples_of(part) for part in inside if isinstance(part, Tensor | Mapping | list | tuple)), 1)


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`."""
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: moved(part, device) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
