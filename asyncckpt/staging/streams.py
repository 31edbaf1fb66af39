"""Streams: one side stream for each accelerator device, and how it is ordered with the streams that train.

Written against ``torch.accelerator``, ``torch.Stream`` and ``torch.Event`` alone, so that cuda, xpu, npu and the
simulated device of `asyncckpt.testing` are one path. A side stream is not ordered with any other by itself: PyTorch's
pool streams do not block on the default one. What a copy reads must be there first (`StreamDevice.mark` on the thread
that trains, then `StreamDevice.side`), and who changes it must wait (`StreamDevice.hold`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch

from asyncckpt.errors import UnsupportedState

_UNTRUSTED = ("cpu", "meta", "mps")
"""Kinds without streams, or whose copies to the host cannot be trusted to be complete when an event says so: mps has
silent corruption with ``non_blocking`` (pytorch issues 139550, 189690), so that its copies block."""


def has_streams(kind: str) -> bool:
    """Whether tensors on devices of this kind (``"cuda"``) are copied on a side stream."""
    if kind in _UNTRUSTED or not torch.accelerator.is_available():
        return False
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and accelerator.type == kind


class StreamDevice:
    """One device of an accelerator, and the one stream that this process copies from it on.

    One and not one per save: streams come from a pool of 32, round robin, and one too many is a stream that computes.
    Nor does a second add bandwidth: there is one copy engine per direction.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module: Any = torch.get_device_module(device)
        with self._module.device(device):
            self._side = torch.Stream(device=device)

    def mark(self) -> torch.Event:
        """What the calling thread's stream has been given by now. Current streams belong to threads: call it where the
        training is, never from a worker."""
        return self._recorded(self._current())

    def hold(self, event: torch.Event) -> None:
        """What the calling thread's stream is given from now on waits for `event`; the host does not."""
        self._current().wait_event(event)

    @contextmanager
    def side(self, after: torch.Event | None = None) -> Iterator[None]:
        """Within it, the calling thread's stream is the side stream, which waits for `after` first."""
        if after is not None:
            self._side.wait_event(after)
        with self._module.device(self.device):
            former = self._current()
            torch.accelerator.set_stream(self._side)
            try:
                yield
            finally:
                torch.accelerator.set_stream(former)

    def mark_side(self) -> torch.Event:
        """What the side stream has been given by now. One event for each, never used twice: recorded anew, it would be
        lost to whoever still waits for what it was."""
        return self._recorded(self._side)

    def wait(self, event: torch.Event) -> None:
        """Hold the host until `event` has come; raises what went wrong on the device."""
        event.synchronize()

    def drain(self) -> None:
        """Return once the side stream has nothing to do; raises what went wrong on the device."""
        self._side.synchronize()

    def _current(self) -> torch.Stream:
        return torch.accelerator.current_stream(self.device)

    def _recorded(self, stream: torch.Stream) -> torch.Event:
        event = torch.Event(device=self.device)
        event.record(stream)
        return event


_devices: dict[torch.device, StreamDevice] = {}
_lock = threading.Lock()


def stream_device(device: torch.device) -> StreamDevice:
    """The one of this process for `device`."""
    with _lock:
        if device not in _devices:
            _devices[device] = StreamDevice(device)
        return _devices[device]


def on_one_in_use(kind: str) -> AbstractContextManager[object]:
    """Within it, a device of `kind` that is copied from is the calling thread's current one.

    For a thread that has none yet: what it asks of the driver would make a context on device 0, which takes hundreds of
    megabytes there, also where the training is on another one.
    """
    with _lock:
        used = next((device for device in _devices if device.type == kind), None)
    module: Any = None if used is None else torch.get_device_module(used)
    return nullcontext() if used is None else cast("AbstractContextManager[object]", module.device(used))


def is_capturing() -> bool:
    """Whether the calling thread's stream is being captured into a graph, where nothing may wait for another one."""
    if not torch.accelerator.is_available() or (device := torch.accelerator.current_accelerator()) is None:
        return False
    asked = getattr(torch.get_device_module(device), "is_current_stream_capturing", None)
    return bool(asked and asked())


def refuse_capture(step: int) -> None:
    """Raise `UnsupportedState` while a graph is captured: a copy would become part of it."""
    if is_capturing():
        raise UnsupportedState(
            f"step {step} cannot be saved while a graph is being captured on this stream: save before or after the "
            "capture, and call before_mutation() before each replay that changes saved tensors"
        )
