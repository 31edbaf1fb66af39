"""Selection: what the rules of a policy keep, brought up to date by each checkpoint that comes or goes.

A rule is a chain of selectors, each of which hands on what it selects. What has to come out is what
`asyncckpt.retention.plan` finds by looking at all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator

from asyncckpt.format.record import Checkpoint
from asyncckpt.retention import Monitor, RetentionPolicy, bucket, rank
from asyncckpt.worker.commitlog.follower import Follower
from asyncckpt.worker.commitlog.order import Groups, Key, Order


class Selection:
    """The checkpoints that it was told of, and which of them no rule keeps."""

    def __init__(self, policy: RetentionPolicy | None, monitor: Monitor | None) -> None:
        self.unkept = set[int]()
        """Sequence numbers."""
        self._held = _Held(self.unkept)
        self._rules = list(_chains(policy, monitor, self._held))

    def add(self, checkpoint: Checkpoint) -> None:
        """The rules count `checkpoint` from now on."""
        self.unkept.add(checkpoint.seq)
        for rule in self._rules:
            rule.add(checkpoint)

    def remove(self, checkpoint: Checkpoint) -> None:
        """The rules count `checkpoint` no longer."""
        for rule in self._rules:
            rule.remove(checkpoint)
        self.unkept.discard(checkpoint.seq)


def _chains(policy: RetentionPolicy | None, monitor: Monitor | None, held: Follower) -> Iterator[Follower]:
    rules = dict(policy.rules()) if policy else {}
    if not rules:
        yield held  # everything
        return
    yield _best(1, monitor, held)
    for name, number in rules.items():
        yield _Only(lambda c: not c.partial, _chain(name, number, monitor, held))


def _chain(name: str, number: int, monitor: Monitor | None, held: Follower) -> Follower:
    if name == "last":
        return _Top(number, lambda c: (-c.seq,), held)
    if name == "best":
        return _best(number, monitor, held)
    if name == "every_steps":
        return _Only(lambda c: c.step % number == 0, held)
    if name == "every_epochs":
        return _Only(lambda c: bool(c.epoch and c.epoch % number == 0), _NewestOfEach(lambda c: c.epoch, held))
    return _NewestOfEach(lambda c: bucket(c, name), _Top(number, lambda c: (-c.created, -c.seq), held))


def _best(number: int, monitor: Monitor | None, held: Follower) -> Follower:
    top = _Top(number, lambda c: rank(c, monitor) or (), held)
    return _Only(lambda c: rank(c, monitor) is not None, top)


class _Held:
    """The end of every chain: a checkpoint is kept as long as one of them hands it on."""

    def __init__(self, unkept: set[int]) -> None:
        self._counts = Counter[int]()
        self._unkept = unkept

    def add(self, checkpoint: Checkpoint) -> None:
        self._counts[checkpoint.seq] += 1
        self._unkept.discard(checkpoint.seq)

    def remove(self, checkpoint: Checkpoint) -> None:
        self._counts[checkpoint.seq] -= 1
        if not self._counts[checkpoint.seq]:
            del self._counts[checkpoint.seq]
            self._unkept.add(checkpoint.seq)


class _Only:
    """Hands on those that `condition` is true of."""

    def __init__(self, condition: Callable[[Checkpoint], bool], to: Follower) -> None:
        self._condition = condition
        self._to = to

    def add(self, checkpoint: Checkpoint) -> None:
        if self._condition(checkpoint):
            self._to.add(checkpoint)

    def remove(self, checkpoint: Checkpoint) -> None:
        if self._condition(checkpoint):
            self._to.remove(checkpoint)


class _Top:
    """Hands on the first `number` by `key`."""

    def __init__(self, number: int, key: Key, to: Follower) -> None:
        self._number = number
        self._order = Order(key)
        self._to = to

    def add(self, checkpoint: Checkpoint) -> None:
        found = self._order.sorted
        if self._order.add(checkpoint) < self._number:
            self._to.add(checkpoint)
            if len(found) > self._number:
                self._to.remove(found[self._number])

    def remove(self, checkpoint: Checkpoint) -> None:
        found = self._order.sorted
        if self._order.remove(checkpoint) < self._number:
            self._to.remove(checkpoint)
            if len(found) >= self._number:
                self._to.add(found[self._number - 1])


class _NewestOfEach:
    """Hands on the newest of each group."""

    def __init__(self, group: Callable[[Checkpoint], Hashable], to: Follower) -> None:
        self._groups = Groups(group)
        self._to = to

    def add(self, checkpoint: Checkpoint) -> None:
        self._groups.add(checkpoint)
        *_, former, newest = None, *self._groups.like(checkpoint)[-2:]
        if newest is checkpoint:
            self._to.add(checkpoint)
            if former is not None:
                self._to.remove(former)

    def remove(self, checkpoint: Checkpoint) -> None:
        *_, former, newest = None, *self._groups.like(checkpoint)[-2:]
        self._groups.remove(checkpoint)
        if newest is checkpoint:
            self._to.remove(checkpoint)
            if former is not None:
                self._to.add(former)
