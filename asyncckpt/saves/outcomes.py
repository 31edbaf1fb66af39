"""Outcomes: how saves end, and who is told: the handle, listeners, the log, and the other ranks, who would wait."""

from __future__ import annotations

import logging
import threading

from asyncckpt.errors import PreemptionTimeoutError, SaveError, SaveFailed, SaveSkipped
from asyncckpt.events import Failed, Listeners, Skipped, Superseded
from asyncckpt.saves.handle import SaveHandle, remembered, skipped
from asyncckpt.worker.ranks import Ranks, attempt_key, trouble_key, verdict_key

logger = logging.getLogger("asyncckpt")


class Outcomes:
    """Of the saves of one checkpointer, on any thread.

    Listeners are told before the handle ends: who has waited for it finds the save in the metrics. An interrupt among
    them ends it too.
    """

    def __init__(self, listeners: Listeners, ranks: Ranks) -> None:
        self._listeners = listeners
        self._ranks = ranks
        self.handles: list[SaveHandle] = []
        """Of those that are under way, and those that failed and nobody was told of."""
        self._remembering = threading.Lock()

    def remember(self, handle: SaveHandle) -> None:
        """A save begins, in whatever thread."""
        with self._remembering:
            self.handles = [*remembered(self.handles), handle]

    def forget(self, handle: SaveHandle) -> None:
        """It was interrupted: nobody gets its handle, and nothing may wait for it."""
        with self._remembering:
            self.handles = [other for other in self.handles if other is not handle]

    def skip(self, handle: SaveHandle, why: SaveSkipped, ordinal: int) -> None:
        """Save number `ordinal` never took a snapshot, and no rank shall wait for it."""
        self._ranks.tell(attempt_key(ordinal), {"declined": {"by_step": None}})
        self.leave_out(handle, why)

    def let_go(self, handle: SaveHandle, by_step: int | None) -> None:
        """End the handle of a save that will not be written: superseded by `by_step`, or skipped where None."""
        if by_step is None:
            self.leave_out(handle, skipped(handle, self.handles))
        else:
            try:
                self._listeners.emit(Superseded(handle.step, by_step))
            finally:
                handle._give_way(by_step, self.handles)

    def leave_out(self, handle: SaveHandle, why: SaveSkipped) -> None:
        """End the handle of a save that was skipped."""
        try:
            self._listeners.emit(Skipped(handle.step))
        finally:
            handle._end("skipped", error=why)

    def give_up(self, ordinal: int, error: BaseException) -> None:
        """Tell the other ranks that this one cannot do its part of save number `ordinal`."""
        said = {"error": f"{type(error).__name__}: {error}"}
        if self._ranks.rank == 0:
            self._ranks.tell(attempt_key(ordinal), said)
            self._ranks.tell(verdict_key(ordinal), said)
        else:
            self._ranks.tell(trouble_key(ordinal, self._ranks.rank), said)

    def failed(self, handle: SaveHandle, ordinal: int, phase: str, error: BaseException) -> None:
        """A failure that nobody else tells of."""
        try:
            self._listeners.emit(Failed(handle.step, phase, error))
        finally:
            self.fail(handle, phase, error)
        self.give_up(ordinal, error)

    def fail(self, handle: SaveHandle, phase: str, error: BaseException) -> None:
        """End the handle of a save that failed, as the listeners were told."""
        failure: SaveError = SaveFailed(
            f"the save of step {handle.step} failed ({phase}): {error}", {handle.step: error}
        )
        failure.__cause__ = error
        if isinstance(error, PreemptionTimeoutError):
            failure = error
        logger.error("%s; training goes on", failure)  # before the handle ends: who has waited for it finds the line
        handle._end("failed", error=failure)
