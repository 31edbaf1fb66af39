"""MetricsLog: the numbers of a training, a row for each call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from asyncckpt.clock import SYSTEM_CLOCK, Clock
from asyncckpt.events import Event, Resumed
from asyncckpt.metrics_log.history import History, read_metrics
from asyncckpt.metrics_log.journal import CLOSING, Journal
from asyncckpt.metrics_log.rows import encode, numbers_of, step_of
from asyncckpt.storage.base import Storage

METRICS = "metrics"
RESUMED = "resumed"


class MetricsLog:
    """Writes ``metrics.jsonl`` in `folder`: a path, a URL, or an open storage.

    A row is in a file when `log` returns, so that it outlives a kill of the process; a second later it outlives a power
    loss, or, under a URL, five seconds later it is in the store. What cannot be written never stops a training.
    `every` is for `is_due`. As a listener of a checkpointer, it is told by itself where a training goes on.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | Storage,
        *,
        every: int = 10,
        storage_options: Mapping[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if every < 1:
            raise ValueError(f"every={every!r}: use the number of steps from one row to the next, 1 or more")
        self.every = every
        self._clock = clock
        self._journal = Journal(folder, METRICS, storage_options)

    @property
    def lost(self) -> int:
        """Rows that could not be written, nor kept until they could."""
        return self._journal.lost

    def is_due(self, step: int) -> bool:
        """Whether `step` is one of those that are logged: each multiple of `every`, and 0."""
        return step_of(step) % self.every == 0

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one row. Raises `TypeError` and `ValueError` for what is no step or no metric, and for nothing else.

        Values are numbers, tensors or arrays of one element, or None.
        """
        self._journal.write(encode(step_of(step), self._clock.time(), numbers_of(metrics)))

    def resumed(self, step: int) -> None:
        """Training goes on after `step`: rows of later steps that are there are superseded, and count no more."""
        self._journal.write(encode(step_of(step), self._clock.time(), {}, RESUMED))

    def on_event(self, event: Event) -> None:
        """A `Listener`: `resumed` where the checkpointer has."""
        if isinstance(event, Resumed):
            self.resumed(event.step)

    def history(self) -> History:
        """What is logged so far, by this session and by earlier ones. Raises `StorageError`."""
        self.flush()
        return read_metrics(self._journal.storage)

    def flush(self, timeout: float | None = CLOSING) -> bool:
        """Have every row made durable now; whether that was done within `timeout` seconds."""
        return self._journal.flush(timeout)

    def close(self, timeout: float | None = CLOSING) -> None:
        """As `flush`; logging afterwards raises `ValueError`. Harmless when repeated."""
        self._journal.close(timeout)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
