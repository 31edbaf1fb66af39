"""simacc: a simulated accelerator for tests. Importing it builds it once, and registers ``torch.device("sim")``.

Its streams are truly asynchronous, its memory cannot be touched by the host, and a detector names every pair of
accesses that nothing orders. The README beside this file says how it works and what it cannot do.
"""

from __future__ import annotations

import atexit
import os
import sys

import torch
from torch.utils.backend_registration import (
    generate_methods_for_privateuse1_backend,
    rename_privateuse1_backend,
)

from asyncckpt.testing.simacc.build import BuildFailed, load

# First: the modules below import it by this name.
sys.modules[f"{__name__}._C"] = load(f"{__name__}._C")

from asyncckpt.testing.simacc import _C, device_module  # noqa: E402
from asyncckpt.testing.simacc.following import following_threads  # noqa: E402
from asyncckpt.testing.simacc.gate import Gate, hold, release_all  # noqa: E402
from asyncckpt.testing.simacc.host_memory import host_access, host_register, host_unregister  # noqa: E402
from asyncckpt.testing.simacc.knobs import configure, configured, reset_knobs  # noqa: E402
from asyncckpt.testing.simacc.launching import launch  # noqa: E402
from asyncckpt.testing.simacc.process_group import register_backend  # noqa: E402
from asyncckpt.testing.simacc.record import Ran, forget, races, reset, stats, trace  # noqa: E402


def _register() -> None:
    rename_privateuse1_backend("sim")
    torch._register_device_module("sim", device_module)
    sys.modules["torch.sim"] = device_module
    generate_methods_for_privateuse1_backend(for_storage=True)
    register_backend()
    atexit.register(_stop, os.getpid())


def _stop(process: int) -> None:
    """Let no task run while the process is taken down, and what the task uses with it."""
    if os.getpid() == process:  # a forked child has no streams
        _C.stop_streams()


_register()

__all__ = [
    "BuildFailed",
    "Gate",
    "Ran",
    "configure",
    "configured",
    "following_threads",
    "forget",
    "hold",
    "host_access",
    "host_register",
    "host_unregister",
    "launch",
    "races",
    "release_all",
    "reset",
    "reset_knobs",
    "stats",
    "trace",
]
