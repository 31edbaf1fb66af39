"""Pinning: host memory that a device can copy to while the host goes on. Registered once for the life of an arena.

The memory is the arena's own (a memfd that another process can map), registered with the device's driver. torch has
no call for that: CUDA and ROCm have one in their runtime, others can be added by `add_registrar`. Memory that cannot
be registered is copied to by blocking copies on the staging thread, and the checkpointer says so.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asyncckpt.staging.streams import on_one_in_use

logger = logging.getLogger("asyncckpt")


@dataclass(frozen=True, slots=True)
class Registrar:
    """How one kind of device page-locks memory: by address and length in bytes, and by address again to let it go.

    Both raise `RuntimeError` with the driver's reason where it refuses.
    """

    register: Callable[[int, int], None]
    unregister: Callable[[int], None]


_RUNTIMES = ("libcudart.so", "libcudart-", "libamdhip64.so")

_PORTABLE = 1
"""cudaHostRegisterPortable: page-locked for every device of the process, not the current one alone."""


def _cuda_register(address: int, nbytes: int) -> None:
    _check(torch.cuda.cudart().cudaHostRegister(address, nbytes, _PORTABLE))


def _cuda_unregister(address: int) -> None:
    _check(torch.cuda.cudart().cudaHostUnregister(address))


def _check(code: Any) -> None:
    if int(code) != 0:
        reason = f"cudaHostRegister: error {int(code)}, {torch.cuda.cudart().cudaGetErrorString(code)}"
        _forget_error()
        raise RuntimeError(reason)


def _forget_error() -> None:
    """Clear the error that the runtime keeps for the calling thread: else the next kernel it launches would raise it.

    torch does not pass that call on, so it is made in the library that torch has loaded.
    """
    path = _runtime_library()
    library = None if path is None else ctypes.CDLL(path)
    forget = getattr(library, "cudaGetLastError", None) or getattr(library, "hipGetLastError", None)
    if forget is None:
        logger.warning("%s cannot be told to forget an error: this thread's next launch may raise it", path or "CUDA")
    else:
        forget()


def _runtime_library(maps: Path = Path("/proc/self/maps")) -> str | None:
    """The CUDA or HIP runtime that this process has loaded; None where none is seen, as where it is a part of torch."""
    with suppress(OSError):
        for line in maps.read_text().splitlines():
            path = line.partition("/")[2]
            if path.rpartition("/")[2].startswith(_RUNTIMES):
                return f"/{path}"
    return None


_registrars = {"cuda": Registrar(_cuda_register, _cuda_unregister)}


def add_registrar(kind: str, registrar: Registrar) -> None:
    """Have memory for devices of `kind` (``"npu"``) registered by `registrar`."""
    _registrars[kind] = registrar


def pin(kind: str, memory: Tensor, owner: object) -> None:
    """Page-lock `memory` for devices of `kind` until `owner` is collected, which must be before the memory is unmapped.

    Raises `RuntimeError` where it cannot be done, with the reason.
    """
    registrar = _registrars.get(kind)
    if registrar is None:
        raise RuntimeError(f"torch has no way to register memory with {kind} devices; see asyncckpt.staging.pinning")
    address = memory.data_ptr()
    with on_one_in_use(kind):
        registrar.register(address, memory.nbytes)
    # Not at exit: the driver takes its registrations down with the process, and copies may still be under way.
    weakref.finalize(owner, _unpin, kind, registrar, address).atexit = False


def _unpin(kind: str, registrar: Registrar, address: int) -> None:
    with on_one_in_use(kind):  # whichever thread collects the owner
        registrar.unregister(address)
