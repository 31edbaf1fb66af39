"""Listeners: who is told of events, and that no harm comes of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from asyncckpt.events.event import Event

logger = logging.getLogger("asyncckpt")


@runtime_checkable
class Listener(Protocol):
    """Told of every event; must not block for long, since it runs where the event happened."""

    def on_event(self, event: Event) -> None: ...


class Listeners:
    """The listeners of one checkpointer, told in the order in which they were given."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = tuple(listeners)

    def emit(self, event: Event) -> None:
        """Tell every listener; an exception of one is logged and harms neither the others nor the save."""
        for listener in self._listeners:
            try:
                listener.on_event(event)
            except BaseException as error:
                # In the main thread it may be the user's Ctrl-C; in any other it would end a worker for nothing.
                if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                    raise
                logger.exception("listener %r failed on %r", listener, event)
