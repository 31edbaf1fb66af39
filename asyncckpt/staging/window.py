"""Window: a snapshot that does not fit into memory goes through what there is of it, and training waits for the store.

Copies are made in file order, each once the reader has taken enough of those before it; what it took is given back to
the system. EAGER bytes are all there from the start, wherever in the file they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from asyncckpt.format.contents import EXTENT
from asyncckpt.staging.arena import PAGE
from asyncckpt.staging.layout import Plan, Region
from asyncckpt.staging.pieces import adjacent, groups, parts
from asyncckpt.worker.gathering import CHUNK


@dataclass(frozen=True, slots=True)
class Copy:
    """One call that fills bytes of an arena, none before `start` and none from `end` on."""

    start: int
    end: int
    make: Callable[[], None]


def occupied(plan: Plan) -> int:
    """Bytes that are there before the first LAZY copy: headers, and what is EAGER, in whole pages."""
    eager = adjacent(region for region in plan.regions if not region.lazy)
    return sum(_pages(len(header)) for _, header in plan.headers) + sum(_pages(_span(run)) for run in eager)


def least(plan: Plan) -> int:
    """Bytes of memory without which the snapshot would wait for its reader, and that for the snapshot."""
    return occupied(plan) + _largest(plan) + EXTENT + CHUNK


def _largest(plan: Plan) -> int:
    """Of the copies that are made in one go: for each device they are put together apart."""
    lazy: dict[str, list[Region]] = {}
    for region in plan.regions:
        if region.lazy and region.nbytes:
            lazy.setdefault(str(region.source.tensor.device), []).append(region)
    return max((_span(run) for regions in lazy.values() for run in groups(_cut(regions))), default=0)


def _cut(regions: Iterable[Region]) -> Iterable[Region]:
    return (part for region in regions for part in parts(region))


def _span(run: list[Region]) -> int:
    return run[-1].offset + run[-1].nbytes - run[0].offset


def _pages(size: int) -> int:
    """Bytes of the pages that so many bytes may lie in."""
    return (size // PAGE + 2) * PAGE
