"""Timeline: what became of every save of a run, a row for each event, through all of its sessions.

The catalog says what is there now; this says what was, how long it took, and why it went.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from asyncckpt.clock import SYSTEM_CLOCK, Clock
from asyncckpt.events import HOME, Durable, Event, Failed, Pruned, Resumed, Skipped, Stalled, Superseded
from asyncckpt.metrics_log.history import rows_of
from asyncckpt.metrics_log.journal import CLOSING, Journal
from asyncckpt.metrics_log.rows import Row, encode
from asyncckpt.storage.base import Storage

CHECKPOINTS = "checkpoints"

_UNDER_WAY = 64
"""Saves whose end is waited for: of those that come to nothing nobody asks for how long the training stood still."""

_TOLD = (Durable, Failed, Pruned, Resumed, Skipped, Superseded)


class CheckpointLog:
    """A listener that writes ``checkpoints.jsonl`` in `folder`, with what `MetricsLog` promises of its rows."""

    def __init__(
        self,
        folder: str | os.PathLike[str] | Storage,
        *,
        storage_options: Mapping[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._stalled: dict[int, float] = {}
        self._lock = threading.Lock()
        self._journal = Journal(folder, CHECKPOINTS, storage_options)

    def on_event(self, event: Event) -> None:
        """Write one row for what ended a save, for what was dropped, and for where a training went on."""
        if isinstance(event, Stalled):
            self._stall(event)
        if not isinstance(event, _TOLD) or (isinstance(event, Pruned) and event.tier != HOME):
            return
        values = _values(event)
        if isinstance(event, Durable):
            with self._lock:
                seconds = self._stalled.pop(event.step, None)
            values |= {} if seconds is None else {"stalled": seconds}
        self._journal.write(encode(event.step, self._clock.time(), values, type(event).__name__.lower()))

    def _stall(self, event: Stalled) -> None:
        """Keep it for the row of its save: here the training thread is, which must not wait for a file."""
        with self._lock:
            self._stalled[event.step] = self._stalled.pop(event.step, 0.0) + event.seconds
            if len(self._stalled) > _UNDER_WAY:
                del self._stalled[next(iter(self._stalled))]

    def flush(self, timeout: float | None = CLOSING) -> bool:
        """Have every row made durable now; whether that was done within `timeout` seconds."""
        return self._journal.flush(timeout)

    def close(self, timeout: float | None = CLOSING) -> None:
        """As `flush`, and nothing is written any more. Harmless when repeated."""
        self._journal.close(timeout)


def _values(event: Event) -> dict[str, Any]:
    fields: tuple[str, ...] = ()
    match event:
        case Durable():
            fields = ("seq", "bytes", "written", "seconds", "created")
        case Pruned():
            fields = ("seq", "reason", "rule")
        case Failed():
            return {"phase": event.phase, "reason": str(event.error)}
        case Superseded():
            fields = ("by_step",)
        case Resumed():
            fields = ("seq",)
    return {name: getattr(event, name) for name in fields}


def read_checkpoints(
    folder: str | os.PathLike[str] | Storage, *, storage_options: Mapping[str, Any] | None = None
) -> tuple[Row, ...]:
    """Every event in the checkpoint log of `folder`, oldest first; `Row.event` is its name. Raises `StorageError`."""
    return tuple(rows_of(folder, CHECKPOINTS, storage_options)[0])
