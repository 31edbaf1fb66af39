"""Rhythm: when one step of a training is over, for whoever wants to know how long steps take.

The loop says so by calling ``step``. One that calls only ``save`` or ``epoch_end`` does not: there it is the steps of
the first of its optimizers, as torch's hook sees them. Where neither is to be seen, steps are not timed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Protocol
from weakref import ref

from torch.optim.optimizer import Optimizer

from asyncckpt.staging.guards import follow, unfollow

_FIRST = -(1 << 62)
"""So that no number that the loop gives follows one that was counted here."""


class Over(Protocol):
    """Is told that step `step` was completed at `now` seconds by the clock of the training, or right now."""

    def __call__(self, step: int, now: float | None = None) -> None: ...


class Rhythm:
    """Tells `over` of each step by a number that follows the one before, on the thread that has made this."""

    def __init__(self, optimizers: Sequence[Optimizer], over: Over) -> None:
        self._over = over
        self._leading = ref(optimizers[0]) if optimizers else None
        self._made = _FIRST
        self._thread = threading.get_ident()
        self._process = os.getpid()
        self._looks = bool(optimizers)
        if self._looks:
            follow(self)

    def told(self, step: int, now: float | None = None) -> None:
        """The loop says that `step` is over, since `now` seconds by the clock, and will say so of the next ones."""
        if self._looks:
            self.close()
        self._over(step, now)

    def stepping(self, optimizer: Optimizer) -> None:
        """`optimizer` is about to make a step: the time from one to the next is that of a step."""
        if self._leading is None or self._leading() is not optimizer:
            return
        # Backward passes step in threads of torch's; a fork has no saves in flight.
        if (threading.get_ident(), os.getpid()) == (self._thread, self._process):
            self._made += 1
            self._over(self._made)

    def close(self) -> None:
        """Look no more."""
        if self._looks:
            self._looks = False
            unfollow(self)
