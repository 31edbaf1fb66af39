"""Schedule: the copies of one plan into one arena; built once and used for every save until the plan changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asyncckpt.format.contents import Path
from asyncckpt.staging.arena import Arena
from asyncckpt.staging.device import copy_group, destination, same_bits
from asyncckpt.staging.lane import Lane
from asyncckpt.staging.layout import Plan, Region, sharer
from asyncckpt.staging.offloaded import written_by_devices
from asyncckpt.staging.origins import Origins, origins
from asyncckpt.staging.pieces import groups, parts
from asyncckpt.staging.streams import has_streams, stream_device


@dataclass(frozen=True, slots=True)
class HostGroup:
    """Copies made in one call, of bytes from `start` of the arena on, up to `end`."""

    start: int
    end: int
    paths: tuple[Path, ...]
    destinations: tuple[Tensor, ...]
    sources: Origins

    def copy(self, tensors: Mapping[Path, Tensor]) -> None:
        copy_group(self.destinations, self.sources.now(tensors))

    def changed(self, tensors: Mapping[Path, Tensor]) -> list[Path]:
        """The tensors whose live bytes are not the copied ones."""
        pairs = zip(self.paths, self.destinations, self.sources.now(tensors), strict=True)
        return [path for path, copied, live in pairs if not same_bits(copied, live)]


class Schedule:
    """Made on the thread that trains, with all its tensors: one that needs the interpreter lock for each of them again
    would not come to an end beside a training that holds it.
    """

    def __init__(self, plan: Plan, arena: Arena) -> None:
        self.plan = plan
        self.arena = arena
        self._write_headers()
        here: list[Region] = []
        there: defaultdict[torch.device, list[Region]] = defaultdict(list)
        for region in plan.regions:
            if region.nbytes:
                device = region.source.tensor.device
                (there[device] if has_streams(device.type) else here).append(region)
        self.lanes = [self._lane(device, regions) for device, regions in there.items()]
        self._eager = self._group([region for region in here if not region.lazy])
        self._lent = [region for region in plan.regions if region.lazy and region.source.volatile]
        runs = groups(part for region in here if region.lazy for part in parts(region))
        self.lazy = [group for run in runs if (group := self._group(run)) is not None]
        """LAZY copies of host memory in file order."""
        self._eager_is_offloaded = written_by_devices(r.source.tensor for r in here if not r.lazy)
        self._lazy_is_offloaded = written_by_devices(r.source.tensor for r in here if r.lazy)

    def offloaded(self, tensors: Mapping[Path, Tensor]) -> tuple[bool, bool]:
        """Whether devices may be writing to what is EAGER in host memory, and to what is LAZY there."""
        lent = self.lent(tensors)
        handed = (tensor for path, tensor in tensors.items() if path not in lent)
        return (
            self._eager_is_offloaded or written_by_devices(handed),
            self._lazy_is_offloaded or written_by_devices(lent.values()),
        )

    @property
    def starts(self) -> list[int]:
        """Where the copies begin that are not made when the save call returns."""
        return [*(group.start for group in self.lazy), *(start for lane in self.lanes for start in lane.starts)]

    def _write_headers(self) -> None:
        for start, header in self.plan.headers:
            self.arena.view[start : start + len(header)] = header

    def copy_eager(self, tensors: Mapping[Path, Tensor]) -> None:
        """Copy what is EAGER in host memory, and what was handed out for this save."""
        if self.arena.window is not None:  # they were given back
            self._write_headers()
        if self._eager is not None:
            self._eager.copy(tensors)

    def lent(self, tensors: Mapping[Path, Tensor]) -> dict[Path, Tensor]:
        """Those of `tensors`, which were handed out for one save, that LAZY copies read."""
        return {path: tensors[path] for path in {sharer(region, tensors) for region in self._lent}}

    def _lane(self, device: torch.device, regions: list[Region]) -> Lane:
        eager, lazy = [r for r in regions if not r.lazy], [r for r in regions if r.lazy]
        return Lane(stream_device(device), self.arena.tensor, eager, lazy)

    def _group(self, regions: list[Region]) -> HostGroup | None:
        if not regions:
            return None
        return HostGroup(
            regions[0].offset,
            regions[-1].offset + regions[-1].nbytes,
            tuple(r.path for r in regions),
            tuple(destination(self.arena.tensor, r.offset, r.source.tensor) for r in regions),
            origins(regions),
        )
