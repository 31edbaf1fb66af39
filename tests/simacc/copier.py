"""Copier: how tensors get from a device to the host beside training, with each safety measure removable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Flaw = Literal["no fence", "event before copies", "no record_stream"]


@dataclass
class Copied:
    """Copies in flight; `host` holds them once `wait` has returned."""

    host: dict[str, Tensor]
    done: torch.Event

    def guard(self) -> None:
        """What the current stream does from now on comes after the copies; the host goes on."""
        torch.accelerator.current_stream(self.done.device).wait_event(self.done)

    def wait(self) -> None:
        self.done.synchronize()


class Copier:
    def __init__(self, device: str = "sim:0", flaw: Flaw | None = None) -> None:
        self.stream = torch.Stream(device=device)
        self._device = torch.device(device)
        self._flaw = flaw
        self._pinned: dict[str, Tensor] = {}

    def begin(self, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Copied:
        current = torch.accelerator.current_stream(self._device)
        done = torch.Event(self._device)
        sources = {name: tensor.detach() for name, tensor in tensors.items()}
        if dtype is not None:
            sources = {name: tensor.to(dtype) for name, tensor in sources.items()}
        if self._flaw != "no fence":
            self.stream.wait_event(current.record_event())
        if self._flaw == "event before copies":
            done.record(self.stream)
        host = {name: self._copy(name, source, temporary=dtype is not None) for name, source in sources.items()}
        if self._flaw != "event before copies":
            done.record(self.stream)
        return Copied(host, done)

    def _copy(self, name: str, source: Tensor, temporary: bool) -> Tensor:
        if temporary and self._flaw != "no record_stream":
            source.record_stream(self.stream)
        if name not in self._pinned or self._pinned[name].dtype != source.dtype:
            self._pinned[name] = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        with self.stream:
            return self._pinned[name].copy_(source, non_blocking=True)
