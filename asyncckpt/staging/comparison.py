"""Comparison: the live LAZY tensors of a lane against their copies, made on the device, so that no host waits for it.

The copies are sent back on the side stream and compared there, byte by byte; training's next change waits for that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from asyncckpt.format.contents import Path
from asyncckpt.staging.lane import Batch, Gathered, Lane


class Comparison:
    """Enqueued by the thread that is about to change the tensors; `end` is what the change has to wait for.

    `tensors` are those that were handed out for this save.
    """

    def __init__(self, lane: Lane, tensors: Mapping[Path, Tensor], *, pinned: bool) -> None:
        self._lane = lane
        self._tensors = tensors
        self._pinned = pinned
        self._paths: list[Path] = []
        differing: list[Tensor] = []
        # Whoever changed them past all guards did so on the current stream: that has to be seen.
        with torch.no_grad(), lane.device.side(lane.device.mark()):
            for batch in lane.batches:
                differing += self._differing(batch)
            self._found = torch.stack(differing) if differing else None
        self.end = lane.device.mark_side()

    def changed(self) -> list[Path]:
        """The tensors whose live bytes were not the copied ones; returns once that is known."""
        if self._found is None:
            return []
        self.end.synchronize()
        with self._lane.device.side():
            flags = self._found.tolist()
        return [path for path, differs in zip(self._paths, flags, strict=True) if differs]

    def _differing(self, batch: Batch) -> list[Tensor]:
        """For each tensor, a byte that is not zero where it differs."""
        masks = [m for run in batch.gathered for m in self._of_run(run)]
        self._paths += [path for run in batch.gathered for path in run.paths]
        for place, source in zip(batch.places, batch.sources.now(self._tensors), strict=True):
            masks.append(self._mask(place, source))
        self._paths += batch.paths
        return list(torch._foreach_max(masks)) if masks else []

    def _of_run(self, run: Gathered) -> list[Tensor]:
        run.gather(self._tensors)
        mask = self._mask(run.place, run.scratch)
        return [mask[start:end] for start, end in run.spans]

    def _mask(self, place: Tensor, live: Tensor) -> Tensor:
        copied = place.to(live.device, non_blocking=self._pinned)
        return (_bytes(copied) != _bytes(live)).view(torch.uint8)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
