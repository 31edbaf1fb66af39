"""Lane: one tracker on a thread of its own, and what waits for it.

A tracker that hangs holds up its lane and nothing else: what waits is bounded, the oldest rows go first, and closing
waits no longer than it is told. A tracker that cannot begin is left out; one that fails is tried again with the next
row. Each is said once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asyncckpt.events import Event, Stalled
from asyncckpt.metrics_log.rows import Value
from asyncckpt.tallies import TALLIES
from asyncckpt.trackers.base import Tracker

logger = logging.getLogger("asyncckpt")

WAITING = 10_000
"""Rows and events that may wait for one tracker."""

State = Literal["starting", "running", "failing", "unavailable", "closed"]
Answer = Callable[[str, bool], None]


def _unasked(name: str, is_taken: bool) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One call to a tracker: with a row, or with an event of some kind."""

    kind: str
    call: Callable[[], None]
    answer: Answer = _unasked


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """How one tracker does: `taken` calls it took, `failed` raised, `lost` never reached it, `waiting` still may."""

    state: State
    taken: int
    failed: int
    lost: int
    waiting: int


class Lane:
    """Hands everything to `tracker`, in order; no method waits for it but `close`, nor raises."""

    def __init__(self, tracker: Tracker, config: Mapping[str, Any]) -> None:
        self.name = tracker.name
        self._tracker = tracker
        self._config = config
        self._state: State = "starting"
        self._change = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._failing: set[str] = set()
        self._is_closing = False
        self._is_ended = False
        self._taken = self._failed = self._lost = 0
        self._thread: threading.Thread | None = None
        if not tracker.is_immediate:
            self._thread = threading.Thread(target=self._run, name=f"asyncckpt-{self.name}", daemon=True)
            self._thread.start()
        else:
            self._open()

    def log(self, step: int, metrics: Mapping[str, Value], answer: Answer = _unasked) -> None:
        """Pass on one row; `answer` is told whether the tracker took it."""
        self._pass_on(_Item("row", lambda: self._tracker.log(step, metrics), answer))

    def on_event(self, event: Event) -> None:
        """Pass on one event."""
        if self._thread is not None and isinstance(event, Stalled):
            return  # every save has some, which would wait in the place of rows; who adds them up is immediate
        self._pass_on(_Item(type(event).__name__, lambda: self._tracker.on_event(event)))

    def _pass_on(self, item: _Item) -> None:
        if self._thread is None:
            self._call(item)
            return
        with self._change:
            is_lost = self._is_closing or self._is_ended
            if is_lost:
                self._lose()
            else:
                self._queue.append(item)
                self._change.notify_all()
            dropped = self._queue.popleft() if len(self._queue) > WAITING else None
        if is_lost:
            item.answer(self.name, False)
        if dropped is not None:
            self._drop(dropped)

    def _lose(self) -> None:
        self._lost += 1
        TALLIES.add("tracker_lost", self.name)

    def _drop(self, item: _Item) -> None:
        self._lose()
        if self._lost == 1:
            message = "%s takes nothing: %d rows wait for it, and the oldest go; training goes on"
            logger.warning(message, self.name, WAITING)
        item.answer(self.name, False)

    def _run(self) -> None:
        is_open = self._open()
        while (item := self._next()) is not None:
            if is_open:
                self._call(item)
            else:
                self._lose()
                item.answer(self.name, False)
        if is_open:
            self._end()
        with self._change:
            self._is_ended = True
            self._change.notify_all()

    def _next(self) -> _Item | None:
        with self._change:
            self._change.wait_for(lambda: self._queue or self._is_closing)
            return self._queue.popleft() if self._queue else None

    def _open(self) -> bool:
        try:
            self._tracker.open(self._config)
        except BaseException as error:
            self._let_through(error)
            self._state = "unavailable"
            TALLIES.add("tracker_failed", self.name)
            logger.warning("%s is not used: %s; training goes on", self.name, _said(error))
            return False
        self._state = "running"
        TALLIES.add("tracker_taken", self.name)
        return True

    def _call(self, item: _Item) -> None:
        if self._state == "unavailable":
            self._lose()
            item.answer(self.name, False)
            return
        try:
            item.call()
        except BaseException as error:
            self._let_through(error)
            self._failed += 1
            TALLIES.add("tracker_failed", self.name)
            if not self._failing:
                logger.warning("%s did not take a %s: %s; training goes on", self.name, item.kind, _said(error))
            self._failing.add(item.kind)  # said again once all kinds that fail have gone through
            is_taken = False
        else:
            self._taken += 1
            TALLIES.add("tracker_taken", self.name)
            self._failing.discard(item.kind)
            is_taken = True
        self._state = "failing" if self._failing else "running"
        item.answer(self.name, is_taken)

    def _let_through(self, error: BaseException) -> None:
        """Raise what is the user's, such as Ctrl-C; in a thread of our own it is a library's sys.exit()."""
        if self._thread is None and not isinstance(error, Exception):
            raise error

    def _end(self) -> None:
        try:
            self._tracker.close()
        except BaseException as error:
            self._let_through(error)
            logger.warning("%s did not end well: %s", self.name, _said(error))
        self._state = "closed"

    def begin_close(self) -> None:
        """What waits is the last; returns at once."""
        with self._change:
            if self._thread is None and not self._is_closing and self._state != "unavailable":
                self._end()
            self._is_closing = True
            self._change.notify_all()

    def close(self, deadline: float) -> bool:
        """Whether the tracker has taken what waited, and ended, by `deadline` on the monotonic clock."""
        if self._thread is None:
            return True
        with self._change:
            self._change.wait_for(lambda: self._is_ended, max(0.0, deadline - time.monotonic()))
            is_ended, left = self._is_ended, len(self._queue)
        if is_ended:
            self._thread.join()
        else:
            logger.warning("%s has not ended: %d rows still wait for it, and are given up", self.name, left)
        return is_ended

    @property
    def status(self) -> LaneStatus:
        """How it does now."""
        with self._change:
            return LaneStatus(self._state, self._taken, self._failed, self._lost, len(self._queue))


def _said(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
