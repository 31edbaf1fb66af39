"""Budget: what saving may take from a training, in memory, in milliseconds and in the length of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most that saving may take. Raises `ValueError` for what means nothing.

    `memory`: bytes of staging memory; None is most of what the limits of the process leave. `stall_ms`: milliseconds
    for which one periodic save may hold the training thread, in its call and at the optimizer together. One that would
    have to wait for longer, for memory or for its copy, is skipped, also after it was begun. What the call itself does
    (values, EAGER tensors) and a comparison are not: they would take as long at the next save, and there would never be
    a checkpoint; nor is an explicit `save`. Those are made whatever they take, and told: on the handle
    (`SaveHandle.held`, `SaveHandle.is_over_budget`), in an event and in a metric. None holds for as
    long as it takes. With it, snapshots are compared with live tensors only for ``verify="always"``. `slowdown`: the
    part of its time that a step may take longer while a save is in flight; background work is paced to that, unless
    somebody waits for it. None is as fast as it goes.
    """

    memory: int | None = None
    stall_ms: float | None = None
    slowdown: float | None = 0.02

    def __post_init__(self) -> None:
        for name, what in (("memory", "bytes"), ("stall_ms", "milliseconds"), ("slowdown", "a part of 1")):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ValueError(f"Budget({name}={value!r}): use {what} above 0, or None for no limit")
        if self.memory is not None:
            if not math.isfinite(self.memory):
                raise ValueError(f"Budget(memory={self.memory}): use None for no limit")
            object.__setattr__(self, "memory", int(self.memory))  # people write 8e9, and arenas are counted by it
