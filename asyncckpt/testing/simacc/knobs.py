"""Knobs: what a test turns to make the device slow, small, strict or faulty. Seconds, bytes, bytes per second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict, Unpack

from asyncckpt.testing.simacc import _C


class Knobs(TypedDict, total=False):
    """Every knob, by name."""

    d2h_bw: float
    """Bandwidth of device-to-host copies; 0 is as fast as memory."""
    h2d_bw: float
    copy_latency: float
    """Added to each copy between host and device."""
    kernel_latency: float
    """Added to each kernel."""
    chunk: int
    """A slow copy pauses each time after this many bytes; so it can be torn between them. 1 MiB."""
    poison: int
    """Overwrite a freed block: 0 never; 1 when it is handed out again, as may happen on CUDA; 2 at its free, which is
    stricter than any real allocator."""
    pageable_async: bool
    """A non-blocking copy into pageable memory returns at once, as it may. By default it blocks."""
    pinned_alloc_syncs: bool
    """A new pinned block waits for all devices, as ``cudaHostAlloc`` may."""
    pinned_alloc_latency: float
    capturing: bool
    """All streams capture a graph: whatever waits, queries or pins raises."""
    available: bool
    """Off: programs that ask whether there is an accelerator are told that there is none."""
    trace: bool
    """Keep when each task was queued, began and ended."""
    capacity: float
    """Bytes of each device; -1 is all of the address space."""
    fail_pinned_after: int
    """Memory can be page-locked so many times (a new pinned block, a registration) before it fails once; -1: never."""
    fail_copy_after: int
    """So many device-to-host copies work before one fails, asynchronously; -1: none fails."""


_DEFAULTS = _C.knobs()


def configure(**knobs: Unpack[Knobs]) -> None:
    """Turn knobs; the others stay as they are. Raises `ValueError` for a name that is none."""
    for name, value in knobs.items():
        if name not in _DEFAULTS:
            raise ValueError(f"simacc has no knob {name!r}; it has {', '.join(_DEFAULTS)}")
        assert isinstance(value, int | float), f"{name} is a number"
        _C.set_knob(name, value)


@contextmanager
def configured(**knobs: Unpack[Knobs]) -> Iterator[None]:
    """Turn knobs for as long as this lasts; then all are as they were before."""
    before = _C.knobs()
    try:
        configure(**knobs)
        yield
    finally:
        _set(before)


def reset_knobs() -> None:
    """As when the process began: fast, and without faults."""
    _set(_DEFAULTS)


def _set(values: dict[str, float]) -> None:
    for name, value in values.items():
        _C.set_knob(name, value)
