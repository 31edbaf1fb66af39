"""Pieces: the regions of a plan cut and put together into copies of a size that a writer can follow."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from asyncckpt.staging.device import GROUP
from asyncckpt.staging.layout import Region, cuttable
from asyncckpt.state.capture import Source


def parts(region: Region) -> list[Region]:
    """A large region in pieces, so that the writer can follow close behind the copy, and no copy needs much memory.

    What is not row-major is cut between its rows: one that is large by itself stays whole.
    """
    whole = cuttable(region.source.tensor)
    if region.nbytes <= GROUP or whole.dim() == 0:
        return [region]
    step = max(1, GROUP // (region.nbytes // whole.shape[0]))
    return [_part(region, whole, slice(at, at + step)) for at in range(0, whole.shape[0], step)]


def _part(region: Region, whole: Tensor, cut: slice) -> Region:
    source, tensor = region.source, whole[cut]
    before = cut.start * (region.nbytes // whole.shape[0])
    part = Source(source.path, tensor, source.lazy, source.volatile)
    return Region(region.path, region.offset + before, tensor.nbytes, part, cut)


def groups(regions: Iterable[Region]) -> list[list[Region]]:
    """Regions in file order, `GROUP` bytes together."""
    found: list[list[Region]] = []
    size = 0
    for region in regions:
        if not found or size + region.nbytes > GROUP:
            found.append([])
            size = 0
        found[-1].append(region)
        size += region.nbytes
    return found


def adjacent(regions: Iterable[Region]) -> list[list[Region]]:
    """Regions in file order, those together that lie side by side in the arena."""
    found: list[list[Region]] = []
    end = -1
    for region in regions:
        if region.offset != end:
            found.append([])
        found[-1].append(region)
        end = region.offset + region.nbytes
    return found
