"""Backlog: how many bytes of copies a device has been given and has not made yet. Bounded until a step waits for them.

All copies from a device go through one engine: a number that the loop reads (``loss.item()``), or what somebody else
offloads, may come after all that is queued. So no more is queued than an engine makes in a few milliseconds. A step
that waits for all of it has nothing to gain from that: then the rest is queued at once, so that no host has to wait.

A save call that queues copies by itself (`InOrder`) waits for the oldest of them instead: training stands still on the
device until they are made, and what that costs is seen where it comes from.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

MOST = 128 << 20
"""Bytes for each device: four copies, so that the next one is there when one ends."""


class Backlog:
    """Of one snapshot, at most `most` bytes; a copy that is larger is queued alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queued = 0
        self._is_open = False
        self._changed = threading.Condition()

    def enter(self, nbytes: int, *, wait: bool) -> bool:
        """Before a copy is queued: whether there is room for it. With `wait` it returns once there is."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._has_room(nbytes))
            elif not self._has_room(nbytes):
                return False
            self._queued += nbytes
            return True

    def leave(self, nbytes: int) -> None:
        """A copy has been made, or never will be."""
        with self._changed:
            self._queued -= nbytes
            self._changed.notify_all()

    def open(self) -> None:
        """From now on there is room for everything."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def _has_room(self, nbytes: int) -> bool:
        return self._is_open or not self._queued or self._queued + nbytes <= self._most


class InOrder:
    """Copies that one thread queues and waits for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queued: deque[tuple[int, Callable[[], None]]] = deque()

    def enter(self, nbytes: int) -> None:
        """Before a copy is queued: return once there is room for it. Raises what went wrong with one before."""
        while self._queued and sum(size for size, _ in self._queued) + nbytes > self._most:
            _, wait = self._queued.popleft()
            wait()

    def entered(self, nbytes: int, wait: Callable[[], None]) -> None:
        """It was queued; `wait` returns once it is made."""
        self._queued.append((nbytes, wait))
