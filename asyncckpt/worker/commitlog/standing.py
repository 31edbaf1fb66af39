"""Standing: what retention removes at each commit, without a look at everything that stays.

`asyncckpt.retention.plan` says what that is. This here finds the same from what the last commit left, and the new
checkpoint: with ten thousand kept, going over all of them took longer than the rest of a small save.
"""

from __future__ import annotations

from collections.abc import Collection

from asyncckpt.format.record import Checkpoint, Removal
from asyncckpt.retention import Monitor, RetentionPolicy, Told, outcast, removal, replaces, unreplaced
from asyncckpt.worker.commitlog.order import Groups, Ranking
from asyncckpt.worker.commitlog.selection import Selection


class Standing:
    """The checkpoints that it was told of, and how each stands under `policy`."""

    def __init__(self, policy: RetentionPolicy | None, monitor: Monitor | None) -> None:
        self._policy = policy
        self._listed: dict[int, Checkpoint] = {}
        self._damaged: frozenset[int] = frozenset()
        self._start_over(monitor)

    def add(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` is listed from now on."""
        self._listed[checkpoint.seq] = checkpoint
        if checkpoint.seq not in self._damaged:
            for follower in self._followers:
                follower.add(checkpoint)

    def remove(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` is listed no longer."""
        del self._listed[checkpoint.seq]
        if checkpoint.seq not in self._damaged:
            for follower in self._followers:
                follower.remove(checkpoint)

    def removed(self, newest: Checkpoint, monitor: Monitor | None, told: Told) -> tuple[Removal, ...]:
        """What `plan` would remove of what is listed once `newest` is; changes nothing."""
        if monitor != self._ranking.monitor:  # seldom: a training keeps to its metric
            self._start_over(monitor)
        self._set_apart(told.damaged)
        self.add(newest)
        try:
            return self._removed(newest, told)
        finally:
            self.remove(newest)

    def _removed(self, newest: Checkpoint, told: Told) -> tuple[Removal, ...]:
        replaced = [c for c in self._steps.like(newest) if replaces(newest, c)]
        best = self._ranking.first(without=told.unwanted)
        out = outcast(told, replaced, best, newest, self._ranking.monitor)
        unkept_ones = self._unkept(out)
        spared = {newest.seq, *told.reading, *told.evidence}
        if newest.partial:  # seldom
            spared.update(seq for seq in unreplaced(self._listed.values()) if seq not in out)
        gone = sorted(seq for seq in unkept_ones if seq not in spared and seq not in told.marks)
        return tuple(removal(self._listed[seq], out, self._policy) for seq in gone)

    def _unkept(self, out: Collection[int]) -> set[int]:
        """What no rule keeps where `out` count in none."""
        outcasts = [self._listed[seq] for seq in out if seq in self._listed]
        counted = [c for c in outcasts if c.seq not in self._damaged]
        for checkpoint in counted:
            self._selection.remove(checkpoint)
        found = self._selection.unkept.union(c.seq for c in outcasts)
        for checkpoint in counted:
            self._selection.add(checkpoint)
        return found

    def _set_apart(self, damaged: Collection[int]) -> None:
        now, before = frozenset(damaged), self._damaged
        touched = [self._listed[seq] for seq in now ^ before if seq in self._listed]
        for checkpoint in touched:
            self.remove(checkpoint)
        self._damaged = now
        for checkpoint in touched:
            self.add(checkpoint)

    def _start_over(self, monitor: Monitor | None) -> None:
        self._ranking = Ranking(monitor)
        self._steps = Groups(lambda c: c.step)
        self._selection = Selection(self._policy, monitor)
        self._followers = (self._ranking, self._steps, self._selection)
        listed, self._listed = self._listed, {}
        for checkpoint in listed.values():
            self.add(checkpoint)
