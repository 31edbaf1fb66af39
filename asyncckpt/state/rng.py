"""Random state: python's, numpy's, torch's and every device's, read without changing it and put back.

A generator that the process has not brought to life yet (numpy not imported, the accelerator not initialised)
has drawn nothing and is left out: reading it would import the library, or claim memory on every device.

States are bytes: they are read at every save, and 625 integers and two tensors more cost the call 0.3 ms.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class _Accelerator:
    """The devices of torch's current accelerator."""

    type: str
    module: Any

    @property
    def initialised(self) -> bool:
        # Backends without the question (mps) have nothing to initialise.
        return bool(getattr(self.module, "is_initialized", lambda: True)())

    def devices(self) -> dict[str, torch.device]:
        found = (torch.device(self.type, index) for index in range(self.module.device_count()))
        return {str(device): device for device in found}


def capture_rng() -> dict[str, Any]:
    """The random state of this process now, as plain values.

    Keys: ``python`` (version, words as little-endian uint32, the normal draw that is left over), ``torch``,
    ``devices`` (by name, ``"cuda:0"``), and ``numpy`` (the global generator) if it is in use. Draws after
    `restore_rng` of it equal the draws after this call.
    """
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": (version, struct.pack(f"<{len(words)}I", *words), gauss),
        "torch": _bytes(torch.get_rng_state()),
        "devices": {},
    }
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        state["numpy"] = packed(numpy_random.get_state(legacy=False))
    accelerator = _accelerator()
    if accelerator is not None and accelerator.initialised:
        read = accelerator.module.get_rng_state
        state["devices"] = {name: _bytes(read(device)) for name, device in accelerator.devices().items()}
    return state


def restore_rng(state: Mapping[str, Any]) -> list[str]:
    """Put back all of a captured state that this process has a place for.

    Returns one sentence for each part that was not restored: it is for people to read, and empty when draws
    now continue exactly. Never raises because a state is of another machine or version.
    """
    if not state:  # as of a checkpoint that was imported
        return ["the checkpoint holds no random state: that of this process goes on as it is"]
    return [
        *_attempt("python's random state", lambda: _python_set_state(*state["python"])),
        *_attempt("torch's random state", lambda: torch.set_rng_state(_tensor(state["torch"]))),
        *_restore_numpy(state.get("numpy")),
        *_restore_devices(state.get("devices", {})),
    ]


def _accelerator() -> _Accelerator | None:
    # torch 2.6 raises, and a CUDA build answers "cuda", where there is no device: so availability comes first.
    if not torch.accelerator.is_available() or (device := torch.accelerator.current_accelerator()) is None:
        return None
    return _Accelerator(device.type, torch.get_device_module(device))


def _attempt(what: str, restore: Callable[[], object]) -> Iterable[str]:
    try:
        restore()
    except Exception as error:  # the generators raise whatever they like at a state of another version
        return [f"{what} was not restored: {type(error).__name__}: {error}"]
    return ()


def _python_set_state(version: int, words: bytes, gauss: float | None) -> None:
    random.setstate((version, struct.unpack(f"<{len(words) // 4}I", words), gauss))


def _bytes(state: torch.Tensor) -> bytes:
    # A tensor gives its bytes in one go only through numpy, which need not be there.
    return ctypes.string_at(state.data_ptr(), state.nbytes)


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _restore_numpy(state: Mapping[str, Any] | None) -> Iterable[str]:
    if state is None:
        in_use = sys.modules.get("numpy.random") is not None
        return ["numpy: no random state in the checkpoint, goes on as it is"] if in_use else ()
    return _attempt("numpy's random state", lambda: _numpy_set_state(state))


def _numpy_set_state(state: Mapping[str, Any]) -> None:
    from numpy import random as numpy_random

    numpy_random.set_state(unpacked(state))


def packed(value: Any) -> Any:
    """The state of a generator of numpy without arrays: a process without numpy has to be able to read the rest."""
    if isinstance(value, dict):
        return {key: packed(part) for key, part in value.items()}
    return {"dtype": value.dtype.str, "bytes": value.tobytes()} if hasattr(value, "tobytes") else value


def unpacked(value: Any) -> Any:
    """The inverse of `packed`."""
    from numpy import frombuffer

    if isinstance(value, Mapping):
        if value.keys() == {"dtype", "bytes"}:
            return frombuffer(value["bytes"], value["dtype"])
        return {key: unpacked(part) for key, part in value.items()}
    return value


def _restore_devices(states: Mapping[str, bytes]) -> Iterable[str]:
    accelerator = _accelerator()
    if accelerator is None:
        return _missing(states)
    here = accelerator.devices()
    notes = _missing([name for name in states if name not in here])
    for name in (name for name in states if name in here):
        restore = partial(_set_device, accelerator, here[name], states[name])
        notes += _attempt(f"the random state of {name}", restore)
    if accelerator.initialised and (more := [name for name in here if name not in states]):
        notes.append(f"{', '.join(more)}: no random state in the checkpoint, goes on as it is")
    return notes


def _set_device(accelerator: _Accelerator, device: torch.device, state: bytes) -> None:
    # Before the backend is initialised, setters are queued, and a queued torch.manual_seed() is run after them
    # however early it was called: it would overwrite the state. Reading initialises.
    accelerator.module.get_rng_state(device)
    accelerator.module.set_rng_state(_tensor(state), device)


def _missing(names: Iterable[str]) -> list[str]:
    gone = ", ".join(names)
    return [f"the random state of {gone} was not restored: this process has no such device"] if gone else []
