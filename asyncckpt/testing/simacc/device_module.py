"""``torch.sim``: what a device module offers. Much of it is what ``torch.accelerator`` does, for the device "sim"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import Tensor

from asyncckpt.testing.simacc import _C
from asyncckpt.testing.simacc.device_index import DeviceLike, index_of


def is_available() -> bool:
    """Whether the knob ``available`` is on."""
    return bool(_C.knobs()["available"])


def is_initialized() -> bool:
    return True


def init() -> None:
    """Nothing is left to do after the import."""


def _is_in_bad_fork() -> bool:
    return False


# -- devices ---------------------------------------------------------------------------------------------------


def device_count() -> int:
    """Two, or what the environment's ``SIMACC_DEVICES`` said."""
    return _C.device_count()


def current_device() -> int:
    """The index of this thread's device."""
    return _C.current_device()


def set_device(device: DeviceLike) -> None:
    """Make a device this thread's. Raises `RuntimeError` for one that is not there."""
    _C.set_device(index_of(device))


class device:
    """A context in which a device is this thread's."""

    def __init__(self, device: DeviceLike) -> None:
        self._index = index_of(device)
        self._before = -1

    def __enter__(self) -> None:
        self._before = _C.current_device()
        if self._index >= 0:
            _C.set_device(self._index)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _C.set_device(self._before)


def get_device_name(device: DeviceLike = None) -> str:
    return f"simulated accelerator {index_of(device)}"


def synchronize(device: DeviceLike = None) -> None:
    """Wait for all streams of a device. Raises what a task on any of them has raised."""
    torch.accelerator.synchronize(index_of(device))


# -- streams ---------------------------------------------------------------------------------------------------


def Stream(device: DeviceLike = None, priority: int = 0) -> torch.Stream:
    """One of the device's 32 streams, in turn."""
    return torch.Stream(device=torch.device("sim", index_of(device)), priority=priority)


def Event(enable_timing: bool = False) -> torch.Event:
    """An event that was not recorded yet."""
    return torch.Event("sim", enable_timing=enable_timing)


def current_stream(device: DeviceLike = None) -> torch.Stream:
    """This thread's stream on a device."""
    return torch.accelerator.current_stream(index_of(device))


def default_stream(device: DeviceLike = None) -> torch.Stream:
    """The stream that is every thread's at first."""
    index = index_of(device)
    return torch.Stream(stream_id=0, device_index=index, device_type=current_stream(index).device_type)


def set_stream(stream: torch.Stream) -> None:
    torch.accelerator.set_stream(stream)


@contextmanager
def stream(stream: torch.Stream | None) -> Iterator[None]:
    """A context in which a stream is this thread's; None changes nothing."""
    if stream is None:
        yield
    else:
        with stream:
            yield


def is_current_stream_capturing() -> bool:
    """Whether the knob ``capturing`` is on."""
    return bool(_C.knobs()["capturing"])


# -- memory ----------------------------------------------------------------------------------------------------


def mem_get_info(device: DeviceLike = None) -> tuple[int, int]:
    """Free and total bytes."""
    return _C.memory(index_of(device))


def memory_allocated(device: DeviceLike = None) -> int:
    """Bytes of the tensors on a device."""
    free, total = mem_get_info(device)
    return total - free


def empty_cache() -> None:
    """Nothing: freed blocks are kept, to be handed out again."""


# -- random numbers --------------------------------------------------------------------------------------------


def get_rng_state(device: DeviceLike = "sim") -> Tensor:
    return _C.get_rng_state(index_of(device))


def set_rng_state(new_state: Tensor, device: DeviceLike = "sim") -> None:
    _C.set_rng_state(index_of(device), new_state)


def get_rng_state_all() -> list[Tensor]:
    return [_C.get_rng_state(index) for index in range(device_count())]


def set_rng_state_all(new_states: list[Tensor]) -> None:
    for index, state in enumerate(new_states):
        _C.set_rng_state(index, state)


def manual_seed(seed: int) -> None:
    _C.manual_seed(current_device(), seed)


def manual_seed_all(seed: int) -> None:
    for index in range(device_count()):
        _C.manual_seed(index, seed)


def initial_seed() -> int:
    return _C.initial_seed(current_device())


def get_amp_supported_dtype() -> list[torch.dtype]:
    """What ``autocast("sim")`` can lower to."""
    return [torch.float16, torch.bfloat16]
