"""JSON lines: the metrics log and the checkpoint log, as a tracker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from asyncckpt.events import Event
from asyncckpt.metrics_log import CheckpointLog, MetricsLog
from asyncckpt.metrics_log.rows import Value
from asyncckpt.storage.base import Storage


class JsonLinesTracker:
    """Writes ``metrics.jsonl`` and ``checkpoints.jsonl`` in `folder`, a path or URL; there when the call returns."""

    name = "jsonlines"
    is_immediate = True

    def __init__(
        self, folder: str | os.PathLike[str] | Storage, *, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        self._metrics = MetricsLog(folder, storage_options=storage_options)
        self._checkpoints = CheckpointLog(folder, storage_options=storage_options)

    def open(self, config: Mapping[str, Any]) -> None:
        """Nothing to begin: the run keeps its configuration in a file of its own."""

    def log(self, step: int, metrics: Mapping[str, Value]) -> None:
        """One row."""
        self._metrics.log(step, metrics)

    def on_event(self, event: Event) -> None:
        """One row of the checkpoint log; where training goes on, the metrics log is told too."""
        self._checkpoints.on_event(event)
        self._metrics.on_event(event)

    def close(self) -> None:
        """Make everything durable."""
        self._metrics.close()
        self._checkpoints.close()
