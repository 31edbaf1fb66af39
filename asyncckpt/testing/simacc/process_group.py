"""Process group: backend ``simccl``, whose collectives run on a stream, as NCCL's do, with gloo to move the bytes.

::

    group = dist.new_group(backend="cpu:gloo,sim:simccl")

A collective waits for what the current stream has queued; waiting for it makes the current stream wait, and not the
host. What gloo raises surfaces where somebody waits for the device.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from asyncckpt.testing.simacc import _C

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BACKEND = "simccl"


def _create(store: Store, rank: int, size: int, timeout: timedelta) -> Any:
    from torch.distributed import ProcessGroupGloo

    return _C.stream_backend(ProcessGroupGloo(store, rank, size, timeout))


def register_backend() -> None:
    """Make the backend known to ``torch.distributed``; once per process."""
    if dist.is_available():
        dist.Backend.register_backend(BACKEND, _create, devices=["sim"])
