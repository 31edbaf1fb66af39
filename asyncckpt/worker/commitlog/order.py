"""Order: checkpoints sorted by a key, kept up to date one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from typing import TypeAlias

from asyncckpt.format.record import Checkpoint
from asyncckpt.retention import Monitor, rank

Key: TypeAlias = Callable[[Checkpoint], tuple[float, ...]]
"""What checkpoints are sorted by; no two may share one."""


def by_seq(checkpoint: Checkpoint) -> tuple[float, ...]:
    """Oldest first."""
    return (checkpoint.seq,)


class Order:
    """Checkpoints, sorted by `key`."""

    def __init__(self, key: Key) -> None:
        self.sorted: list[Checkpoint] = []
        self._key = key

    def add(self, checkpoint: Checkpoint) -> int:
        """Put `checkpoint` in; returns where it stands now."""
        at = self._place(checkpoint)
        self.sorted.insert(at, checkpoint)
        return at

    def remove(self, checkpoint: Checkpoint) -> int:
        """Take `checkpoint` out, which is in; returns where it stood."""
        at = self._place(checkpoint)
        del self.sorted[at]
        return at

    def _place(self, checkpoint: Checkpoint) -> int:
        return bisect_left(self.sorted, self._key(checkpoint), key=self._key)


class Groups:
    """Checkpoints by what `group` makes of each."""

    def __init__(self, group: Callable[[Checkpoint], Hashable]) -> None:
        self._group = group
        self._orders: dict[Hashable, Order] = {}

    def add(self, checkpoint: Checkpoint) -> None:
        """Put `checkpoint` into its group."""
        self._orders.setdefault(self._group(checkpoint), Order(by_seq)).add(checkpoint)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Take `checkpoint` out of its group, in which it is."""
        group = self._group(checkpoint)
        self._orders[group].remove(checkpoint)
        if not self._orders[group].sorted:
            del self._orders[group]

    def like(self, checkpoint: Checkpoint) -> Sequence[Checkpoint]:
        """The group that `checkpoint` is or would be in, oldest first."""
        found = self._orders.get(self._group(checkpoint))
        return found.sorted if found else ()


class Ranking:
    """Those with the monitored metric, best first: what `asyncckpt.retention.ranking` makes anew."""

    def __init__(self, monitor: Monitor | None, checkpoints: Iterable[Checkpoint] = ()) -> None:
        self.monitor = monitor
        self._order = Order(lambda c: rank(c, monitor) or ())
        for checkpoint in checkpoints:
            self.add(checkpoint)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._order.sorted)

    def add(self, checkpoint: Checkpoint) -> None:
        """Rank `checkpoint`, if it can be."""
        if rank(checkpoint, self.monitor) is not None:
            self._order.add(checkpoint)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Rank `checkpoint` no longer."""
        if rank(checkpoint, self.monitor) is not None:
            self._order.remove(checkpoint)

    def first(self, without: Container[int] = ()) -> Checkpoint | None:
        """The best one whose sequence number is not in `without`."""
        return next((c for c in self if c.seq not in without), None)
