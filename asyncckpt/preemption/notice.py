"""Notice: somebody has said that this process will be killed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """Who said so, and when the process is gone by the monotonic clock; `signum` where a signal said it, else 0."""

    source: str
    deadline: float
    signum: int = 0

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self.deadline - time.monotonic()


class Notices:
    """Every notice given to one training, and `given` is called after each. No lock is taken: a signal handler may."""

    def __init__(self, given: Callable[[], None] = lambda: None) -> None:
        self.heard: deque[Notice] = deque()
        self._given = given

    def give(self, notice: Notice) -> None:
        """From any thread, and from a signal handler."""
        self.heard.append(notice)
        self._given()

    @property
    def first(self) -> Notice | None:
        """The first one given; its deadline is the earliest that any of them names."""
        if not self.heard:
            return None
        heard = list(self.heard)
        return Notice(heard[0].source, min(notice.deadline for notice in heard), heard[0].signum)
