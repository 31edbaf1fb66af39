"""Launching: a Python function as a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from asyncckpt.testing.simacc import _C
from asyncckpt.testing.simacc.device_index import DeviceLike, index_of


def launch(
    function: Callable[..., object],
    *,
    reads: Sequence[Tensor] = (),
    writes: Sequence[Tensor] = (),
    device: DeviceLike = None,
) -> None:
    """Queue ``function(*reads, *writes)`` on the current stream and return; it gets CPU views of these tensors.

    It runs later, on the stream's thread. The views are valid during the call only, and nothing keeps the tensors'
    memory alive until then, as with any kernel. What it raises surfaces where somebody waits. The device is that of
    the first tensor, unless given. It must not wait for the stream that it runs on.
    """
    given = [*reads, *writes]
    index = index_of(given[0].device if device is None and given else device)
    name = getattr(function, "__name__", type(function).__name__)
    _C.launch(function, list(reads), list(writes), index, name)
