"""Tracker: a service that is told what a training does, and the extras that some of them need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from asyncckpt.errors import AsyncCkptError
from asyncckpt.events import (
    Amended,
    Durable,
    Event,
    Failed,
    PreemptionNoticed,
    Pruned,
    Resumed,
    Skipped,
    Stalled,
    Superseded,
)
from asyncckpt.extras import imported
from asyncckpt.metrics_log.rows import Value

TOLD = (Amended, Durable, Failed, PreemptionNoticed, Pruned, Resumed, Skipped, Stalled, Superseded)
"""The events that trackers are told of; `Stalled` only those that are immediate."""


class TrackerUnavailable(AsyncCkptError):
    """A tracker cannot be used here; the message says what is missing and how to get it."""


class Tracker(Protocol):
    """Told of a training; every method is called by one thread of its own, and may block and raise.

    `Trackers` sees to it that neither reaches the training. One that says `is_immediate` is called by whichever thread
    logs, several at once maybe, and so must not wait for anything.
    """

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def is_immediate(self) -> bool:
        """Whether it is called by whoever logs, and has what it is told when the call returns."""
        ...

    def open(self, config: Mapping[str, Any]) -> None:
        """Begin, with the whole configuration of the run; called once, before all else."""
        ...

    def log(self, step: int, metrics: Mapping[str, Value]) -> None:
        """The metrics of one step."""
        ...

    def on_event(self, event: Event) -> None:
        """One of the events in `TOLD`."""
        ...

    def close(self) -> None:
        """Send what there is, and end; called once, after all else."""
        ...


def needed(module: str, extra: str, who: str) -> Any:
    """The module; raises `TrackerUnavailable` that names the extra which brings it, where it is not installed."""
    return imported(module, extra, f"{who} needs {module.partition('.')[0]}", TrackerUnavailable)
