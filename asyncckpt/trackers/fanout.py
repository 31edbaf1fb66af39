"""Trackers: several of them at once, none of which can harm the training or another."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from asyncckpt.configuration.plain import masked
from asyncckpt.events import Event
from asyncckpt.leading import leads
from asyncckpt.metrics_log.rows import numbers_of, step_of
from asyncckpt.trackers.base import TOLD, Tracker
from asyncckpt.trackers.lane import Lane, LaneStatus
from asyncckpt.trackers.telling import tell

logger = logging.getLogger("asyncckpt")


class Trackers:
    """Tells every one of `trackers` what is logged, and as a listener of a checkpointer what becomes of the saves.

    `config` is the whole configuration of the run, see `whole_config`; secrets in it are masked. No call waits for a
    tracker, or raises since one does: what goes wrong is one line in the log, and in `status`. Of several ranks, rank 0
    tells them; the others have none.
    """

    def __init__(self, *trackers: Tracker, config: Mapping[str, Any] | None = None) -> None:
        names = [tracker.name for tracker in trackers]
        if len(set(names)) < len(names):
            raise ValueError(f"two trackers have one name, of {', '.join(names)}: give one of them another")
        told = trackers if leads() else ()
        self._lanes = [Lane(tracker, masked(config or {})) for tracker in told]
        self._is_closed = False

    def log(self, step: int, metrics: Mapping[str, Any], *, confirm: str | None = None) -> None:
        """Tell every tracker the metrics of `step`. Raises `TypeError` and `ValueError` as `MetricsLog.log` does.

        Tensors on a device are waited for here. With `confirm`, such as ``"Validation metrics"``, it is said in the log
        at INFO, or on stderr where no logging is configured, at which step they were logged, once the trackers have
        taken them.
        """
        number, values = step_of(step), numbers_of(metrics)
        answer = () if confirm is None else (_Confirmation(confirm, number, len(self._lanes)).answer,)
        for lane in self._lanes:
            lane.log(number, values, *answer)

    def on_event(self, event: Event) -> None:
        """A `Listener`: pass on what trackers are told of."""
        if isinstance(event, TOLD) and not self._is_closed:
            for lane in self._lanes:
                lane.on_event(event)

    @property
    def status(self) -> dict[str, LaneStatus]:
        """How each tracker does, by its name."""
        return {lane.name: lane.status for lane in self._lanes}

    def close(self, timeout: float = 60.0) -> bool:
        """Whether all have taken what waited for them, within `timeout` seconds in all; the others are given up."""
        if self._is_closed:
            return True
        self._is_closed = True
        deadline = time.monotonic() + timeout
        for lane in self._lanes:
            lane.begin_close()
        ended = [lane.close(deadline) for lane in self._lanes]  # each of them, also after one that has not
        return all(ended)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Confirmation:
    """Says that a row was logged, once every tracker has answered, and if one has taken it."""

    def __init__(self, what: str, step: int, awaited: int) -> None:
        self._what = what
        self._step = step
        self._awaited = awaited
        self._takers: list[str] = []
        self._lock = threading.Lock()

    def answer(self, name: str, is_taken: bool) -> None:
        with self._lock:
            self._awaited -= 1
            if is_taken:
                self._takers.append(name)
            is_last = self._awaited == 0
        if is_last and self._takers:
            message = "%s %s logged to trackers at step %d (%s)"
            tell(message, _mark(), self._what, self._step, ", ".join(sorted(self._takers)))


def _mark() -> str:
    """A check mark, where terminals can show one."""
    for stream in (sys.stdout, sys.stderr):
        try:
            "\N{CHECK MARK}".encode(getattr(stream, "encoding", None) or "ascii")
        except UnicodeEncodeError:
            return "[ok]"
    return "\N{CHECK MARK}"
