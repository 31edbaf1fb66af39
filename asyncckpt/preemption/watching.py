"""Watching: a thread that asks sources whether they give notice, so that no training step waits for them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from asyncckpt.events import Fallback, Listeners
from asyncckpt.preemption.notice import Notice, Notices
from asyncckpt.preemption.sources import Source

logger = logging.getLogger("asyncckpt")

PATIENCE = 2.0
"""Seconds that a look which is under way is waited for in the end; a user's own may hang, and so may a name server."""


@dataclass(slots=True, eq=False)
class _Asked:
    source: Source
    due: float
    has_failed: bool = False


class Watching:
    """Asks `sources` until `stop`; each until it has given notice. One that fails is told of once, and asked again."""

    def __init__(self, sources: Iterable[Source], notices: Notices, grace: float, listeners: Listeners) -> None:
        self._asked = [_Asked(source, time.monotonic()) for source in sources]
        self._notices = notices
        self._grace = grace
        self._listeners = listeners
        self._is_over = threading.Event()
        self._now = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask, if there is anybody."""
        if self._asked:
            self._thread = threading.Thread(target=self._run, name="asyncckpt-notices", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = PATIENCE) -> None:
        """Ask no more; returns once the thread has ended, or is left to itself after `timeout` seconds."""
        self._is_over.set()
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning(
                "asking %s for notices did not end within %.1f s; nobody waits for it any longer", self._now, timeout
            )

    def _run(self) -> None:
        while self._asked:
            wait = min(asked.due for asked in self._asked) - time.monotonic()
            if self._is_over.wait(max(0.0, wait)):
                return
            for asked in [asked for asked in self._asked if asked.due <= time.monotonic()]:
                self._now = asked.source.name
                asked.due = time.monotonic() + asked.source.period
                self._look(asked)

    def _look(self, asked: _Asked) -> None:
        source = asked.source
        try:
            left = source.look(self._grace)
        except Exception as error:  # of any kind: the source may be the user's own
            if self._is_over.is_set():
                return
            if not asked.has_failed:
                self._listeners.emit(Fallback(f"notices of {source.name}", repr(error)))
            asked.has_failed = True
            return
        asked.has_failed = False
        if left is not None:
            self._asked.remove(asked)
            self._notices.give(Notice(source.name, time.monotonic() + left))
