"""Gate: holds a stream until it is released, so that a test decides what runs before what."""

from __future__ import annotations

from types import TracebackType

import torch

from asyncckpt.testing.simacc import _C

_closed: dict[Gate, None] = {}


class Gate:
    """A closed gate in a stream's queue. Calling it opens it, and so does leaving it as a context."""

    def __init__(self, stream: torch.Stream) -> None:
        self.stream = stream
        self._gate = _C.hold(stream.device.index, stream.stream_id)
        _closed[self] = None

    def __call__(self) -> None:
        """Let the stream go on. More calls than one do nothing."""
        _closed.pop(self, None)
        self._gate.open()

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self()


def hold(stream: torch.Stream) -> Gate:
    """Let `stream` stand still before all that is queued on it from now on; the gate that is returned releases it.

    The host goes on, and so do other streams, until they wait for this one.
    """
    return Gate(stream)


def release_all() -> int:
    """Open every gate that is still closed; returns how many there were."""
    left = list(_closed)
    for gate in left:
        gate()
    return len(left)
