"""Event log: the listener that writes what went wrong, or runs weaker than it could, to the log; in one place.

What comes again and again is written once, and then not for a while: metrics count every time. How a save ended is
written by whoever ends its handle.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from asyncckpt.clock import SYSTEM_CLOCK, Clock
from asyncckpt.events import (
    HOME,
    Damaged,
    Event,
    Fallback,
    Leftover,
    OverBudget,
    Requested,
    RestoreFailed,
    Shortage,
    Swept,
    TierFailed,
)

logger = logging.getLogger("asyncckpt")

QUIET = 600.0
"""Seconds for which what was written once is not written again."""

_MANY = 1000
"""Kinds of lines of which it is known when they were written last."""

_KEY = re.compile(r"\S*/\S*")
"""A key of a store within a sentence: nearly every one is another, and what is said of them is the same."""


@dataclass(slots=True)
class _Line:
    """What is written of an event; those of one `kind` are the same to whoever reads them."""

    level: int
    text: str
    kind: Hashable


@dataclass(slots=True)
class _Written:
    at: float
    since: int = 0
    """How many of its kind were left out since then."""


class EventLog:
    """Of one checkpointer, on any thread."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._written: dict[Hashable, _Written] = {}

    def on_event(self, event: Event) -> None:
        """Write a line of it, if it is one that went wrong."""
        line = LINES[type(event)](event) if type(event) in LINES else None
        if line is None:
            return
        left_out = self._count((type(event), line.kind))
        if left_out is not None:
            more = f" ({left_out} more like that since the last such line)" if left_out else ""
            logger.log(line.level, "%s%s", line.text, more)

    def _count(self, kind: Hashable) -> int | None:
        """How many of its kind were left out before it, or None where it is to be left out too."""
        now = self._clock.monotonic()
        with self._lock:
            known = self._written.get(kind)
            if known is not None and now - known.at < QUIET:
                known.since += 1
                return None
            if len(self._written) >= _MANY:
                self._written = {k: w for k, w in self._written.items() if now - w.at < QUIET}
            self._written[kind] = _Written(now)
            return 0 if known is None else known.since


def _fallback(event: Fallback) -> _Line:
    return _Line(logging.WARNING, f"fallback, {event.feature}: {event.reason}", (event.feature, event.reason))


def _leftover(event: Leftover) -> _Line:
    where = "" if event.tier == HOME else f" in the {event.tier} tier"
    text = f"left undone{where}, which harms no checkpoint: {event.what}: {_said(event.error)}"
    return _Line(logging.WARNING, text, (event.tier, _KEY.sub("", event.what)))


def _swept(event: Swept) -> _Line | None:
    if not event.unfinished or event.tier != HOME:
        return None
    text = f"an earlier training had begun saves that were never committed, and are lost: {', '.join(event.unfinished)}"
    return _Line(logging.WARNING, text, event.unfinished)


def _tier_failed(event: TierFailed) -> _Line:
    what = "is not to be had" if event.step is None else f"does not have step {event.step}"
    ending = "nothing more is put there" if event.is_final else "the root has its own; it is tried again"
    text = f"the {event.tier} tier {what} ({ending}): {_said(event.error)}"
    return _Line(logging.WARNING, text, (event.tier, event.step, event.is_final))


def _damaged(event: Damaged) -> _Line:
    where = "" if event.tier == HOME else f" of the {event.tier} tier"
    text = f"a listed checkpoint{where} (step {event.step}) is damaged and is left as it is: {event.reason}"
    return _Line(logging.ERROR, text, (event.tier, event.seq, event.reason))


def _restore_failed(event: RestoreFailed) -> _Line:
    text = f"a resume or restore has failed: {_said(event.error)}"
    return _Line(logging.ERROR, text, text)


def _requested(event: Requested) -> _Line | None:
    if event.error is None:
        return None
    said = _said(event.error)
    return _Line(logging.ERROR, f"the save of step {event.step} was refused: {said}", said)


def _shortage(event: Shortage) -> _Line:
    return _Line(logging.WARNING, event.sentence, event.sentence)


def _over_budget(event: OverBudget) -> _Line:
    ending = "it was given up" if event.dropped else "it was made all the same"
    held = f"{event.seconds * 1e3:.0f} ms, and Budget(stall_ms={event.budget * 1e3:g}) allows no more: {ending}"
    return _Line(logging.WARNING, f"the save of step {event.step} held training for {held}", event.dropped)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


Describe: TypeAlias = Callable[[Any], _Line | None]

LINES: Mapping[type[Event], Describe] = {
    Fallback: _fallback,
    Leftover: _leftover,
    Swept: _swept,
    TierFailed: _tier_failed,
    Damaged: _damaged,
    RestoreFailed: _restore_failed,
    Requested: _requested,
    Shortage: _shortage,
    OverBudget: _over_budget,
}
"""What is written of each kind of event that is written at all."""
