"""Patience: for how long one save may hold the thread that trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from asyncckpt.errors import SaveSkipped


@dataclass(slots=True)
class Patience:
    """Of one save: `limit_ms` milliseconds in all, in its call and at the optimizer.

    One that `gives_up` is dropped where it would take longer; another is made whatever it takes.
    """

    step: int
    limit_ms: float = math.inf
    gives_up: bool = False
    spent: float = 0.0
    """Seconds for which training was held by now."""

    @property
    def left(self) -> float | None:
        """Seconds for which training may be held still; None where that is for ever."""
        return max(0.0, self.limit_ms / 1000 - self.spent) if self.gives_up else None

    @property
    def is_over(self) -> bool:
        """Whether training was held for longer than it may."""
        return self.spent * 1000 > self.limit_ms

    def wait(self, wait: Callable[[float | None], bool]) -> bool:
        """Hold training with ``wait(seconds)`` for as long as is left; whether what it waits for has come."""
        began = time.monotonic()
        try:
            return wait(self.left)
        finally:
            self.spent += time.monotonic() - began

    def exhausted(self, what: str) -> SaveSkipped:
        """Why the save is given up: `what` did not come in time."""
        return SaveSkipped(
            f"step {self.step} was skipped: {what} within the {self.limit_ms:g} ms for which a save may hold the "
            "training thread; raise Budget(stall_ms=), or save where more time lies between two optimizer steps"
        )
