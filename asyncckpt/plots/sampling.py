"""Sampling: a copy of what a picture needs of a state that training goes on to change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncckpt.plots.histograms import tensors

BUDGET = 20_000_000
"""Values that are copied of one state."""
LEAST = 1_000


def sampled(state: Mapping[str, Any]) -> dict[str, Any]:
    """Evenly spread values of every tensor of floats in `state`, on the host, by path; of small tensors all.

    Of an optimizer's state the kinds stay together: it is nested as it was.
    """
    found = dict(tensors(state))
    most = max(LEAST, BUDGET // max(1, len(found)))
    return {path: _copy(value, most) for path, value in found.items()}


def sampled_optimizer(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an optimizer's ``state_dict()``, nested as that is."""
    kept = state.get("state", {})
    count = sum(1 for _ in tensors(kept))
    most = max(LEAST, BUDGET // max(1, count))
    return {
        "state": {
            number: {name: _copy(value, most) for name, value in tensors(values)} for number, values in kept.items()
        }
    }


def copied(value: Any) -> Any:
    """All of a tensor or an array, on the host, so that nothing changes it."""
    if hasattr(value, "detach"):
        return value.detach().to("cpu", copy=True)
    return value.copy()


def _copy(value: Any, most: int) -> Any:
    size = 1
    for length in value.shape:
        size *= int(length)
    stride = -(-size // most)
    if stride <= 1:
        return copied(value)
    flat = value.detach() if hasattr(value, "detach") else value
    return copied(flat.reshape(-1)[::stride])
