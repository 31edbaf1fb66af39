"""Simulated: a training on the simulated device, whose counters say what a save asks of a real one.

Counts and order, never speed: nothing that the simulator takes is what a device would. Making one registers the device
with torch, for the whole process: it belongs into a turn of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from asyncckpt.staging import pinning, streams
from asyncckpt.testing import simacc

LAYERS, QUICK_LAYERS = 40, 4


class Simulated:
    """A `Subject` on the device, which has made its first step: linear layers under SGD with momentum."""

    def __init__(self, *, quick: bool) -> None:
        self._registered: dict[int, int] = {}
        pinning.add_registrar("sim", pinning.Registrar(self._register, self._unregister))
        layers = QUICK_LAYERS if quick else LAYERS
        self.model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(layers))).to("sim")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.extra: Mapping[str, nn.Module] = {}
        self._data = torch.randn(8, 64).to("sim")
        self.step()

    @property
    def tensors(self) -> int:
        """How many it saves."""
        return 2 * len(list(self.model.parameters()))

    @property
    def locked(self) -> int:
        """Bytes of host memory that are page-locked for the device."""
        return sum(self._registered.values()) + simacc.stats().get("pinned_reserved_bytes", 0)

    def before_update(self, call: Callable[[], None]) -> None:
        self.optimizer.register_step_pre_hook(lambda *_: call())

    def step(self) -> None:
        self.model(self._data).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)  # or gradients would come and go

    def _register(self, address: int, nbytes: int) -> None:
        simacc.host_register(address, nbytes)
        self._registered[address] = nbytes

    def _unregister(self, address: int) -> None:
        simacc.host_unregister(address)
        del self._registered[address]


@contextmanager
def copies_held() -> Iterator[None]:
    """Within it, nothing that was queued on the side stream is done: who waits for a copy does not return."""
    with simacc.hold(streams.stream_device(torch.device("sim", 0))._side):
        yield


def more(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """How much counter `name` has gone up."""
    return after.get(name, 0) - before.get(name, 0)
