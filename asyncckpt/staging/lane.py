"""Lane: the copies of one schedule from one accelerator device, on its side stream.

EAGER bytes are gathered into device memory by the call itself, on the stream that trains, so that what comes after
may change them; LAZY ones are read where they are, held by the guard. Big row-major tensors go straight to their
places; runs of small or strided ones are gathered on the device first, since each copy to the host costs as much as
100 KB do. Everything is enqueued by the staging thread, in few calls that hold no interpreter lock.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from asyncckpt.format.contents import Path
from asyncckpt.staging import backlog
from asyncckpt.staging.backlog import InOrder
from asyncckpt.staging.device import copy_group, destination
from asyncckpt.staging.layout import Region, in_file_order
from asyncckpt.staging.origins import Origins, origins
from asyncckpt.staging.pieces import adjacent, groups, parts
from asyncckpt.staging.streams import StreamDevice
from asyncckpt.staging.window import Copy

STRAIGHT = 1 << 20
"""Bytes from which on a tensor is copied by itself."""

SCRATCH = 256 << 20
"""Bytes of device memory, at most, that EAGER tensors are gathered in; more are copied in the call's order instead."""

_ALIGNMENT = 16
"""Of the widest element, complex128."""

Marked = tuple[int, torch.Event]
"""Where in the arena copies begin, and the event that says when they are complete."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Tensors that are gathered side by side in device memory and copied as one."""

    start: int
    paths: tuple[Path, ...]
    spans: tuple[tuple[int, int], ...]
    """Where each begins and ends in the scratch."""
    sources: Origins
    slots: tuple[Tensor, ...]
    scratch: Tensor
    place: Tensor

    def gather(self, tensors: Mapping[Path, Tensor]) -> None:
        """Fill the scratch, on the current stream; `tensors` are those handed out for this save."""
        copy_group(self.slots, self.sources.now(tensors))


@dataclass(frozen=True, slots=True)
class Batch:
    """Copies of up to `GROUP` bytes that lie side by side in the arena, from `start` to `end`."""

    start: int
    end: int
    paths: tuple[Path, ...]
    """Of what is not gathered."""
    places: tuple[Tensor, ...]
    sources: Origins
    gathered: tuple[Gathered, ...]

    def send(self, tensors: Mapping[Path, Tensor], *, pinned: bool) -> None:
        """Enqueue the copies on the current stream; where the arena is not `pinned`, return once they are made."""
        for run in self.gathered:
            run.gather(tensors)
            # At once: the next one is gathered in the same memory.
            copy_group([run.place], [run.scratch], non_blocking=pinned)
        copy_group(self.places, self.sources.now(tensors), non_blocking=pinned)


class Lane:
    """Built once for each schedule, on the thread that trains; `eager` and `lazy` are its regions, in file order."""

    def __init__(self, device: StreamDevice, arena: Tensor, eager: Sequence[Region], lazy: Sequence[Region]) -> None:
        self.device = device
        self._arena = arena
        is_small = sum(region.nbytes for region in eager) <= SCRATCH
        self._runs = self._gathered_eager(eager) if is_small else []
        self.in_order = [] if is_small else self._batched(_cut(eager))
        """Copies of what is EAGER and too big to be gathered: training waits for them on the device."""
        self.batches = self._batched(_cut(lazy))
        """LAZY copies in file order."""
        self.starts = [copy.start for copies in (self._runs, self.in_order, self.batches) for copy in copies]
        """Where its copies begin in the arena, as they are marked."""

    def _gathered_eager(self, eager: Sequence[Region]) -> list[Gathered]:
        runs = adjacent(eager)
        ends = list(itertools.accumulate(map(_length, runs)))
        scratch = torch.empty(ends[-1] if ends else 0, dtype=torch.uint8, device=self.device.device)
        return [_gathered(run, scratch[end - _length(run) :], self._arena) for run, end in zip(runs, ends, strict=True)]

    # -- on the thread that trains ---------------------------------------------------------------------------

    def capture(self, tensors: Mapping[Path, Tensor]) -> torch.Event:
        """Gather what is EAGER, on the current stream. The copies wait for what is returned: it is there then."""
        for run in self._runs:
            run.gather(tensors)
        return self.device.mark()

    def send_in_order(self, after: torch.Event, tensors: Mapping[Path, Tensor], *, pinned: bool) -> list[Marked]:
        """Copy EAGER tensors that are too big to be gathered; the current stream goes on once that is done.

        The host goes on once there is room in the queue for what is left of them.
        """
        marks, queue = list[Marked](), InOrder(backlog.MOST)
        for batch in self.in_order:
            queue.enter(batch.end - batch.start)
            with self.device.side(after):
                batch.send(tensors, pinned=pinned)
            marks.append((batch.start, self.device.mark_side()))
            queue.entered(batch.end - batch.start, partial(self.device.wait, marks[-1][1]))
        if marks:
            self.device.hold(marks[-1][1])
        return marks

    # -- on the staging thread -------------------------------------------------------------------------------

    def copies(self, after: torch.Event, tensors: Mapping[Path, Tensor], *, pinned: bool) -> list[Copy]:
        """All others, behind `after`, a batch at a time; `tensors` are those handed out for this save."""

        def run_copy(run: Gathered) -> None:
            with self.device.side(after):
                copy_group([run.place], [run.scratch], non_blocking=pinned)

        def batch_copy(batch: Batch) -> None:
            with self.device.side(after):
                batch.send(tensors, pinned=pinned)

        return [
            *(Copy(run.start, run.start + run.place.numel(), partial(run_copy, run)) for run in self._runs),
            *(Copy(batch.start, batch.end, partial(batch_copy, batch)) for batch in self.batches),
        ]

    def _batched(self, found: Sequence[Sequence[Region]]) -> list[Batch]:
        small = [adjacent(region for region in group if not _is_straight(region)) for group in found]
        with self.device.side():  # memory belongs to the stream that it was allocated on
            # One for all of them: on one stream, the next run is gathered after the copy of the one before.
            longest = max((_length(run) for runs in small for run in runs), default=0)
            scratch = torch.empty(longest, dtype=torch.uint8, device=self.device.device)
        return [self._batch(group, runs, scratch) for group, runs in zip(found, small, strict=True)]

    def _batch(self, group: Sequence[Region], small: Sequence[Sequence[Region]], scratch: Tensor) -> Batch:
        straight = [region for region in group if _is_straight(region)]
        return Batch(
            group[0].offset,
            group[-1].offset + group[-1].nbytes,
            tuple(region.path for region in straight),
            tuple(destination(self._arena, region.offset, region.source.tensor) for region in straight),
            origins(straight),
            tuple(_gathered(run, scratch, self._arena) for run in small),
        )


def _cut(regions: Sequence[Region]) -> list[list[Region]]:
    """What is copied in one go, of `regions` in file order."""
    return [group for run in adjacent(p for region in regions for p in parts(region)) for group in groups(run)]


def _is_straight(region: Region) -> bool:
    return region.nbytes >= STRAIGHT and in_file_order(region.source.tensor)


def _length(run: Sequence[Region]) -> int:
    """Bytes of scratch for regions side by side, each as aligned as in the arena."""
    end = run[-1].offset + run[-1].nbytes
    return -(-(end - _base(run)) // _ALIGNMENT) * _ALIGNMENT


def _base(run: Sequence[Region]) -> int:
    return run[0].offset // _ALIGNMENT * _ALIGNMENT


def _gathered(run: Sequence[Region], scratch: Tensor, arena: Tensor) -> Gathered:
    base, start, end = _base(run), run[0].offset, run[-1].offset + run[-1].nbytes
    slots = [destination(scratch, region.offset - base, region.source.tensor) for region in run]
    return Gathered(
        start,
        tuple(region.path for region in run),
        tuple((region.offset - start, region.offset - start + region.nbytes) for region in run),
        origins(run),
        tuple(slots),
        scratch[start - base : end - base],
        arena[start:end],
    )
