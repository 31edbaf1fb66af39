"""Offloaded: saved tensors in page-locked host memory, which a device may be about to write (CPU offloading).

A step that sends its result there with ``copy_(non_blocking=True)`` is over for the host before the bytes have arrived:
who reads them has to wait for what the streams that train were given before the save.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from asyncckpt.staging.lane import Lane
from asyncckpt.staging.streams import has_streams, stream_device


def written_by_devices(tensors: Iterable[Tensor]) -> bool:
    """Whether a device can write to any of `tensors` while the host goes on, and one is in use."""
    # In this order: to ask for the current device would begin to use one in a process that does not.
    return any(tensor.device.type == "cpu" and tensor.is_pinned() for tensor in tensors) and _current() is not None


def marks(lanes: Iterable[Lane]) -> list[torch.Event]:
    """What the calling thread's streams have been given by now, on the current device and on those of `lanes`."""
    current = _current()
    devices = {lane.device.device for lane in lanes} | ({current} if current is not None else set())
    return [stream_device(device).mark() for device in devices]


def _current() -> torch.device | None:
    """The current device, of an accelerator that copies while the host goes on."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or not has_streams(accelerator.type):
        return None
    return torch.accelerator.current_stream().device
