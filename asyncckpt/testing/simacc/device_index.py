"""Device index: which of the simulated devices is meant."""

from __future__ import annotations

from typing import TypeAlias

import torch

from asyncckpt.testing.simacc import _C

DeviceLike: TypeAlias = torch.device | str | int | None
"""A device, or its index; None is this thread's current one."""


def index_of(device: DeviceLike) -> int:
    """The index of a device; that of this thread's current one, where none is said."""
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return _C.current_device() if index is None else index
