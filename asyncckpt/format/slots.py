"""Slots: a set of positions in the commit log, held as ranges: ten thousand listed checkpoints are mostly one run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slots(Collection[int]):
    """An immutable set of slots. `ranges` are inclusive, sorted, and apart from each other."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, slots: Iterable[int]) -> Slots:
        """The set of `slots`."""
        found: list[tuple[int, int]] = []
        for slot in sorted(set(slots)):
            if found and found[-1][1] == slot - 1:
                found[-1] = (found[-1][0], slot)
            else:
                found.append((slot, slot))
        return cls(tuple(found))

    def followed_by(self, slot: int) -> Slots:
        """The same and `slot`, which is above all of them."""
        *before, last = self.ranges or ((slot, slot),)
        if last[1] < slot - 1:
            return Slots((*self.ranges, (slot, slot)))
        return Slots((*before, (last[0], slot)))

    def without(self, slots: Iterable[int]) -> Slots:
        """The same but for `slots`."""
        ranges = list(self.ranges)
        for slot in slots:
            at = bisect_right(ranges, slot, key=_first) - 1
            if at >= 0 and slot <= ranges[at][1]:
                first, last = ranges[at]
                ranges[at : at + 1] = [part for part in ((first, slot - 1), (slot + 1, last)) if part[0] <= part[1]]
        return Slots(tuple(ranges))

    def __contains__(self, slot: object) -> bool:
        if not isinstance(slot, int):
            return False
        at = bisect_right(self.ranges, slot, key=_first) - 1
        return at >= 0 and slot <= self.ranges[at][1]

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)


def _first(bounds: tuple[int, int]) -> int:
    return bounds[0]
