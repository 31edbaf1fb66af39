"""Save policy: when a periodic save is due. Pure but for the clock it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from asyncckpt.clock import Clock
from asyncckpt.retention import Monitor


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePolicy:
    """When ``step`` and ``epoch_end`` save; several conditions make one save, and step 0 makes none.

    ``every_steps``: at each multiple. ``every_seconds``: that long after the last save began.
    ``every_epochs``: at ``epoch_end`` of each multiple. ``on_best``: when the monitored metric improves.
    """

    every_steps: int | None = None
    every_seconds: float | None = None
    every_epochs: int | None = None
    on_best: bool = False

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_seconds", "every_epochs"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"SavePolicy({name}={value}): use a positive number, or None to turn it off")

    @property
    def alike_on_all_ranks(self) -> bool:
        """Whether every rank decides the same by itself: clocks and metrics differ, step numbers do not."""
        return self.every_seconds is None and not self.on_best


class Decider:
    """Applies a policy to one training; remembers when it last saved, and the best value seen."""

    def __init__(self, policy: SavePolicy, monitor: Monitor | None, clock: Clock) -> None:
        if policy.on_best and monitor is None:
            raise ValueError('SavePolicy(on_best=True) needs monitor=("metric", "min" or "max")')
        self.policy = policy
        self._monitor = monitor
        self._clock = clock
        self._saved_at = clock.monotonic()
        self._best: float | None = None

    def at_step(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether to save after `step`."""
        policy = self.policy
        if step == 0:
            return False
        best = policy.on_best and self._improves(metrics)
        on_step = policy.every_steps is not None and step % policy.every_steps == 0
        waited = self._clock.monotonic() - self._saved_at
        on_time = policy.every_seconds is not None and waited >= policy.every_seconds
        return best or on_step or on_time

    def at_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether to save after `epoch` completed epochs."""
        every = self.policy.every_epochs
        best = self.policy.on_best and self._improves(metrics)
        return best or (every is not None and epoch > 0 and epoch % every == 0)

    def saved(self) -> None:
        """A save begins now, for whatever reason."""
        self._saved_at = self._clock.monotonic()

    def seen(self, metrics: Mapping[str, float]) -> None:
        """Metrics of a checkpoint, restored or saved by hand: what comes must be better than those."""
        self._improves(metrics)

    def _improves(self, metrics: Mapping[str, float]) -> bool:
        if self._monitor is None or self._monitor[0] not in metrics:
            return False
        value = metrics[self._monitor[0]]
        if math.isnan(value):
            return False
        better = self._best is None or (value < self._best if self._monitor[1] == "min" else value > self._best)
        if better:
            self._best = value
        return better
