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

from asyncckpt.events import Event
from asyncckpt.metrics_log.rows import Value
from asyncckpt.trackers.base import Tracker

logger = logging.getLogger("asyncckpt")

WAITING = 10_000
"""Rows and events that may wait for one tracker."""

State = Literal["starting", "running", "failing", "unavailable", "closed"]
Answer = Callable[[str, bool], None]


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
        self._queue: deque[tuple[Callable[[], None], Answer | None]] = deque()
        self._is_closing = False
        self._is_ended = False
        self._taken = self._failed = self._lost = 0
        self._thread: threading.Thread | None = None
        if not tracker.is_immediate:
            self._thread = threading.Thread(target=self._run, name=f"asyncckpt-{self.name}", daemon=True)
            self._thread.start()
        else:
            self._open()

    def log(self, step: int, metrics: Mapping[str, Value], answer: Answer | None = None) -> None:
        """Pass on one row; `answer` is told whether the tracker took it."""
        self._pass_on(lambda: self._tracker.log(step, metrics), answer)

    def on_event(self, event: Event) -> None:
        """Pass on one event."""
        self._pass_on(lambda: self._tracker.on_event(event), None)

    def _pass_on(self, call: Callable[[], None], answer: Answer | None) -> None:
        if self._thread is None:
            self._call(call, answer)
            return
        with self._change:
            is_lost = self._is_closing or self._is_ended
            if is_lost:
                self._lost += 1
            else:
                self._queue.append((call, answer))
                self._change.notify_all()
            dropped = self._queue.popleft() if len(self._queue) > WAITING else None
        if is_lost and answer is not None:
            answer(self.name, False)
        if dropped is not None:
            self._drop(dropped[1])

    def _drop(self, answer: Answer | None) -> None:
        self._lost += 1
        if self._lost == 1:
            message = "%s takes nothing: %d rows wait for it, and the oldest go; training goes on"
            logger.warning(message, self.name, WAITING)
        if answer is not None:
            answer(self.name, False)

    def _run(self) -> None:
        is_open = self._open()
        while (item := self._next()) is not None:
            call, answer = item
            if is_open:
                self._call(call, answer)
                continue
            self._lost += 1
            if answer is not None:
                answer(self.name, False)
        if is_open:
            self._end()
        with self._change:
            self._is_ended = True
            self._change.notify_all()

    def _next(self) -> tuple[Callable[[], None], Answer | None] | None:
        with self._change:
            self._change.wait_for(lambda: self._queue or self._is_closing)
            return self._queue.popleft() if self._queue else None

    def _open(self) -> bool:
        try:
            self._tracker.open(self._config)
        except BaseException as error:
            # A service's library may well call sys.exit(), which in its thread would end it without a word.
            self._state = "unavailable"
            logger.warning("%s is not used: %s; training goes on", self.name, _said(error))
            return False
        self._state = "running"
        return True

    def _call(self, call: Callable[[], None], answer: Answer | None) -> None:
        if self._state == "unavailable":
            return
        try:
            call()
        except BaseException as error:
            self._failed += 1
            if self._state != "failing":
                self._state = "failing"
                logger.warning("%s did not take a row: %s; training goes on", self.name, _said(error))
            is_taken = False
        else:
            self._taken += 1
            self._state = "running"
            is_taken = True
        if answer is not None:
            answer(self.name, is_taken)

    def _end(self) -> None:
        try:
            self._tracker.close()
        except BaseException as error:
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
