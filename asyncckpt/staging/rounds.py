"""Rounds: when the optimizers of a training have all made a step, so that their state is there, seen by torch's hook.

A loop that calls nothing but ``save`` gives no other sign of it before its first save.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from torch.optim.optimizer import Optimizer

from asyncckpt.staging.guards import follow, unfollow
from asyncckpt.staging.streams import is_capturing

ENOUGH = 8
"""Steps of one optimizer after which the others are waited for no longer: they may be for a later part of training."""


class Rounds:
    """Calls `complete` once, right before a step of these `optimizers` (any, where there are none) that begins anew.

    That is on the thread that has made this, and never while a graph is being captured.
    """

    def __init__(self, optimizers: Iterable[Optimizer], complete: Callable[[], None]) -> None:
        self.has_begun = False
        """Whether one of them has made a step, in whatever thread."""
        self._awaited = set(map(id, optimizers))
        self._complete = complete
        self._made: Counter[int] = Counter()
        self._thread = threading.get_ident()
        self._process = os.getpid()
        follow(self)

    def stepping(self, optimizer: Optimizer) -> None:
        """`optimizer` is about to make a step."""
        me = id(optimizer)
        if self._awaited and me not in self._awaited:
            return
        self.has_begun = True
        # Backward passes step in threads of torch's, beside which nothing is read; a fork has tensors of its own.
        if (threading.get_ident(), os.getpid()) != (self._thread, self._process) or is_capturing():
            return
        before = self._made[me]
        self._made[me] += 1
        if before and (self._awaited <= self._made.keys() or before >= ENOUGH):
            self.close()
            self._complete()

    def close(self) -> None:
        """Look no more."""
        unfollow(self)
