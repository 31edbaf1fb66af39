"""Hardware: what a run was trained on, as far as it can be asked without touching a device."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

from asyncckpt.version import __version__

_PATIENCE = 5.0


def hardware() -> dict[str, Any]:
    """The machine, its devices and the versions of what computes, as JSON. Never raises."""
    found: dict[str, Any] = {
        "hostname": platform.node(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory(),
        "python": platform.python_version(),
        "asyncckpt": __version__,
    }
    try:
        return {**found, **_devices()}
    except Exception as error:  # a driver that is half there: no reason to stop a training
        return {**found, "gpu_available": False, "error": f"{type(error).__name__}: {error}"}


def _memory() -> int | None:
    if sys.platform == "win32":
        return None
    else:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return None


def _devices() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "cuda_version": torch.version.cuda}
    # Counted without a context on the device: made here, it would be in the way of processes that are forked later.
    count = torch.cuda.device_count() if torch.cuda._is_compiled() else 0
    if not count:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return {**found, "gpu_available": False, "accelerator": None if accelerator is None else accelerator.type}
    gpus = _asked(count) if torch.cuda.is_initialized() else _told_by_driver()
    return {
        **found,
        "gpu_available": True,
        "gpu_count": count,
        "gpu_model": gpus[0][0] if gpus else None,
        "gpus": [{"model": model, "memory_bytes": memory} for model, memory in gpus],
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def _asked(count: int) -> list[tuple[str, int]]:
    import torch

    found = map(torch.cuda.get_device_properties, range(count))
    return [(properties.name, properties.total_memory) for properties in found]


def _told_by_driver() -> list[tuple[str, int]]:
    """All of the machine, which may be more than this process may use."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(
            query, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=True, text=True
        )
        rows = [line.rpartition(",") for line in told.stdout.splitlines() if line]
        return [(model.strip(), int(memory) << 20) for model, _, memory in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
