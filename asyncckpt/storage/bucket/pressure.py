"""Pressure: how many requests a store gets at once. It halves when the store says slow down, and grows back slowly."""

from __future__ import annotations

import asyncio
from collections import deque


class Pressure:
    """A limit on what is under way; all on one event loop."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._limit = float(most)
        self._active = 0
        self._cut_at = 0
        self._done = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """How many may be under way now."""
        return int(self._limit)

    async def __aenter__(self) -> None:
        while self._active >= self.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                self._wake()  # it may have been this one's turn, which the next can have
                raise
        self._active += 1

    async def __aexit__(self, *raised: object) -> None:
        self._active -= 1
        self._done += 1
        self._wake()

    def ease(self) -> None:
        """The store has answered that it is too much. Those that were under way together count as one answer."""
        if self._done >= self._cut_at:
            self._limit = max(1.0, self._limit / 2)
            self._cut_at = self._done + self._active

    def press(self) -> None:
        """The store has done what it was asked for."""
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self._wake()

    def _wake(self) -> None:
        free = self.limit - self._active
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
