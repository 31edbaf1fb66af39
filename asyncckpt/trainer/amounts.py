"""Amounts: numbers that are added up over batches. On a device they stay there: to read one waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from asyncckpt.errors import TrainerError

Amount: TypeAlias = float | Tensor

_PLAIN = (bool, int, float, str, type(None))


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


def kept(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a checkpoint holds, as they are: numbers, text, and tensors."""
    plain = {name: value for name, value in values.items() if type(value) in _PLAIN or _is_dense(value)}
    return {**read({name: value for name, value in values.items() if name not in plain}), **plain}


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def samples_of(batch: Any) -> int:
    """How many samples a batch holds: the length of the first tensor in it that has one, and 1 where there is none."""
    first = _first(batch)
    return 1 if first is None else first.size(0)


def _first(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch if batch.dim() else None
    return next((found for part in _inside(batch) if (found := _first(part)) is not None), None)


def _inside(batch: Any) -> Iterable[Any]:
    if isinstance(batch, list | tuple):
        return batch
    if isinstance(batch, Mapping):
        return batch.values()
    return _of_dataclass(batch).values()


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`: in lists, tuples, mappings and dataclasses, and what has a ``to``."""
    if isinstance(batch, list | tuple):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if type(batch) is dict:
        return {name: moved(part, device) for name, part in batch.items()}
    if hasattr(batch, "to"):  # a tokenizer's, a graph: it knows best
        return batch.to(device)
    return _moved_as_it_is(batch, device)


def _moved_as_it_is(batch: Any, device: torch.device) -> Any:
    """One of a class of its own is of that class again."""
    if isinstance(batch, MutableMapping):
        made = copy(batch)
        made.update({name: moved(part, device) for name, part in batch.items()})
        return made
    if isinstance(batch, Mapping):
        return {name: moved(part, device) for name, part in batch.items()}
    held = _of_dataclass(batch)
    made = copy(batch) if held else batch
    for name, part in held.items():
        object.__setattr__(made, name, moved(part, device))  # it may be frozen
    return made


def _of_dataclass(batch: Any) -> dict[str, Any]:
    """Its fields; none of what is no dataclass."""
    is_one = is_dataclass(batch) and not isinstance(batch, type)
    return {each.name: getattr(batch, each.name) for each in fields(batch)} if is_one else {}
