"""Late: metrics that come after the save that they belong to, as those of an evaluation beside the training do."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, wait

from asyncckpt.events import Leftover, Listeners
from asyncckpt.saves.handle import SaveHandle, wait_all
from asyncckpt.saves.saving import Saver
from asyncckpt.saves.waiting import Waiting
from asyncckpt.staging.tasks import Tasks
from asyncckpt.worker.executor import Executor


class LateMetrics:
    """Attaches them in a thread of its own, one after the other: the training thread does not wait for a store."""

    def __init__(self, saver: Saver, executor: Executor, listeners: Listeners) -> None:
        self._saver = saver
        self._executor = executor
        self._listeners = listeners
        self._thread = Tasks("asyncckpt-late")
        self._lock = threading.Lock()
        self._under_way: list[Future[None]] = []

    def add(self, step: int, metrics: Mapping[str, float]) -> Future[None]:
        """Attach `metrics` to the checkpoint of `step`, once the saves of that step which are under way have ended."""
        told: Future[None] = Future()
        told.set_running_or_notify_cancel()  # it cannot be called off: `settle` would wait for one that was for ever
        awaited = [handle for handle in self._saver.handles if handle.step == step and not handle.done()]
        with self._lock:
            self._under_way = [*(future for future in self._under_way if not future.done()), told]
        self._thread.start()
        self._thread.put(lambda: self._attach(step, metrics, awaited, told))
        return told

    def _attach(self, step: int, metrics: Mapping[str, float], awaited: list[SaveHandle], told: Future[None]) -> None:
        try:
            wait_all(awaited, Waiting(None))
            self._executor.record(step, metrics).result()
        except BaseException as error:  # whatever it is is the caller's, who may never ask: so it is told here too
            self._listeners.emit(Leftover(f"the late metrics of step {step}", error))
            told.set_exception(error)
        else:
            told.set_result(None)

    def settle(self, timeout: float | None) -> bool:
        """Wait until all are attached, or have failed; False if that takes longer than `timeout` seconds."""
        with self._lock:
            under_way = list(self._under_way)
        return not wait(under_way, timeout).not_done

    def close(self, timeout: float) -> None:
        """Attach what was given, within `timeout` seconds, and end."""
        if self.settle(timeout):
            self._thread.close()
