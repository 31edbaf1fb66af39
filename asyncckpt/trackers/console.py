"""Console: one line for each row and for each checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from asyncckpt.events import Durable, Event, Failed, Resumed
from asyncckpt.metrics_log.rows import Value


class ConsoleTracker:
    """Writes to `stream`, by default what ``sys.stdout`` is at that moment; plain ASCII, since a terminal may be."""

    name = "console"
    is_immediate = False

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def open(self, config: Mapping[str, Any]) -> None:
        """Nothing to begin."""

    def log(self, step: int, metrics: Mapping[str, Value]) -> None:
        """``step 100 | loss 0.1234 | lr 1.00e-04``."""
        self._say(" | ".join([f"step {step}", *(f"{name} {_shown(value)}" for name, value in metrics.items())]))

    def on_event(self, event: Event) -> None:
        """A line for what is durable, failed, and resumed from."""
        match event:
            case Durable():
                self._say(f"step {event.step} | durable after {event.seconds:.2f} s | {event.bytes / 1e6:.1f} MB")
            case Failed():
                self._say(f"step {event.step} | save failed ({event.phase}): {event.error}")
            case Resumed():
                self._say(f"step {event.step} | resumed")

    def close(self) -> None:
        """Nothing to end."""

    def _say(self, line: str) -> None:
        stream = self._stream or sys.stdout
        stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
        stream.flush()


def _shown(value: Value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2e}" if value and not 1e-3 <= abs(value) < 1e6 else f"{value:.4f}"
