"""Watching: a thread that asks sources whether they give notice, so that no training step waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from asyncckpt.events import Fallback, Listeners
from asyncckpt.preemption.notice import Notice, Notices
from asyncckpt.preemption.sources import Source


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
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask, if there is anybody."""
        if self._asked:
            self._thread = threading.Thread(target=self._run, name="asyncckpt-notices", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ask no more; returns once the thread has ended, within the time of one request."""
        self._is_over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while self._asked:
            wait = min(asked.due for asked in self._asked) - time.monotonic()
            if self._is_over.wait(max(0.0, wait)):
                return
            for asked in [asked for asked in self._asked if asked.due <= time.monotonic()]:
                asked.due = time.monotonic() + asked.source.period
                self._look(asked)

    def _look(self, asked: _Asked) -> None:
        source = asked.source
        try:
            left = source.look(self._grace)
        except Exception as error:  # of any kind: the source may be the user's own
            if not asked.has_failed:
                self._listeners.emit(Fallback(f"notices of {source.name}", repr(error)))
            asked.has_failed = True
            return
        asked.has_failed = False
        if left is not None:
            self._asked.remove(asked)
            self._notices.give(Notice(source.name, time.monotonic() + left))
