"""Progress: how far a long restore is, told every few seconds; a short one ends before there is anything to tell.

And what makes it slower than it could be.
"""

from __future__ import annotations

import logging
import threading

from asyncckpt.clock import SYSTEM_CLOCK, Clock
from asyncckpt.events import Fallback, Listeners, Restoring

logger = logging.getLogger("asyncckpt")

EVERY = 5.0
"""Seconds from one `Restoring` to the next, at least."""


class Progress:
    """Bytes that were read of a checkpoint and matched their digests; methods may be called from any thread.

    Where it is `brought_from` another tier, they were put in the root as well.
    """

    def __init__(
        self, step: int, listeners: Listeners, clock: Clock = SYSTEM_CLOCK, *, brought_from: str | None = None
    ) -> None:
        self._step = step
        self._brought_from = brought_from
        self._listeners = listeners
        self._clock = clock
        self._lock = threading.Lock()
        self._began = self._told = clock.monotonic()
        self._done = self._total = 0
        self._slower: set[str] = set()

    def anew(self) -> None:
        """What was read so far counts no more: it was damaged, or its tier failed, and it is read elsewhere."""
        with self._lock:
            self._done = self._total = 0

    def expect(self, nbytes: int) -> None:
        """So many more bytes will be read."""
        with self._lock:
            self._total += nbytes

    def add(self, nbytes: int) -> None:
        """So many have been read now; logs and tells that, unless it was told a moment ago."""
        with self._lock:
            self._done += nbytes
            now = self._clock.monotonic()
            if now - self._told < EVERY:
                return
            self._told = now
            event = Restoring(self._step, self._done, self._total, now - self._began, self._brought_from)
        what = "restoring" if event.brought_from is None else f"bringing from the {event.brought_from}"
        logger.info(
            "%s step %d: %.1f of %.1f MB after %.0f s",
            *(what, event.step, event.done / 1e6, event.total / 1e6, event.seconds),
        )
        self._listeners.emit(event)

    def slower(self, feature: str, reason: str) -> None:
        """What was read goes a slower way than it could: tells that, the first time."""
        with self._lock:
            is_known = feature in self._slower
            self._slower.add(feature)
        if not is_known:
            self._listeners.emit(Fallback(feature, reason))
