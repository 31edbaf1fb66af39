"""Pieces: the regions of a plan cut and put together into copies of a size that a writer can follow."""

from __future__ import annotations

from collections.abc import Iterable

from asyncckpt.staging.device import GROUP
from asyncckpt.staging.layout import Region
from asyncckpt.state.capture import Source


def is_row_major(region: Region) -> bool:
    """Whether its bytes in memory are its bytes in the file."""
    tensor = region.source.tensor
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def parts(region: Region) -> list[Region]:
    """A large row-major region in pieces, so that the writer can follow close behind the copy."""
    if region.nbytes <= GROUP or not is_row_major(region):
        return [region]
    tensor = region.source.tensor
    flat = tensor.detach().view(-1)
    step = GROUP // tensor.itemsize
    return [_part(region, at, step) for at in range(0, flat.numel(), step)]


def _part(region: Region, at: int, step: int) -> Region:
    source = region.source
    cut = slice(at, at + step)
    tensor = source.tensor.detach().view(-1)[cut]
    part = Source(source.path, tensor, source.lazy, source.volatile)
    return Region(region.path, region.offset + at * tensor.itemsize, tensor.nbytes, part, cut)


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
