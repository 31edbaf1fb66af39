"""Ending: waiting for everything that was begun, and letting everything go."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from asyncckpt.errors import CheckpointerClosed, PreemptionTimeoutError, SaveFailed, WorkerCrashed
from asyncckpt.lifecycle.late import LateMetrics
from asyncckpt.lifecycle.stopping import Stopping
from asyncckpt.metrics import reporting
from asyncckpt.metrics.exporter import Exporter
from asyncckpt.saves.handle import ended, untold, wait_all
from asyncckpt.saves.saving import Saver
from asyncckpt.saves.waiting import Waiting
from asyncckpt.worker.executor import Executor

_T = TypeVar("_T")


class Ending:
    """Of one checkpointer; with `raises` it is the loop that is told of failures."""

    def __init__(
        self,
        saver: Saver,
        late: LateMetrics,
        executor: Executor,
        stopping: Stopping,
        exporter: Exporter | None,
        *,
        raises: bool,
    ) -> None:
        self._saver = saver
        self.late = late
        self._executor = executor
        self._stopping = stopping
        self._exporter = exporter
        self._raises = raises

    def wait(self, timeout: float | None) -> None:
        """See `AsyncCheckpointer.wait`."""
        waiting = self._stopping.waiting(timeout)
        self._saver.settle()
        left = wait_all(self._saver.handles, waiting)
        if left:
            raise _late(waiting, f"after {{}} s still under way: steps {[h.step for h in left]}", timeout)
        if not waiting.wait(self.late.settle):
            raise _late(waiting, "every save is durable, but after {} s late metrics were not attached yet", timeout)
        if not waiting.wait(partial(_is_over, self._executor.settled())):
            raise _late(waiting, "every save is durable, but after {} s retention was still running", timeout)
        self.raise_untold()

    def close(self, limit: float) -> SaveFailed | None:
        """Wait for `limit` seconds, or for as long as a notice has left, and let go; returns what has failed."""
        waiting = self._stopping.waiting(limit)
        self._saver.settle()
        left = wait_all(self._saver.handles, waiting)
        spent = round(waiting.spent, 1) if waiting.is_cut_short else limit
        self._stopping.close()
        self.late.close(waiting.left or 0.0)
        self._executor.close(waiting.left or 0.0)
        self._saver.close(waiting.left or 0.0)
        if self._exporter is not None:
            self._exporter.close(self._stopping.waiting(reporting.LAST).left or 0.0)
        return ended(self._saver.handles, left, spent)

    def answer(self, coming: Future[_T], timeout: float | None) -> _T:
        """What was asked of the run, within `timeout` seconds; raises as `wait` does where it takes longer."""
        waiting = self._stopping.waiting(timeout)
        if not waiting.wait(lambda seconds: not concurrent.futures.wait([coming], seconds).not_done):
            raise _late(waiting, "after {} s the root was still at work on what was asked of it before", timeout)
        return coming.result()

    def check(self) -> None:
        """With ``on_failure="raise"``: raise what has failed and nobody was told of."""
        if self._raises:
            self.raise_untold()

    def raise_untold(self) -> None:
        """Raise what has failed and nobody was told of."""
        failures = untold(self._saver.handles)
        if failures is not None:
            raise failures


def _is_over(settled: Future[None] | None, seconds: float | None) -> bool:
    """Whether that is done, or its service has ended, within so many seconds; raises whatever else it failed with."""
    if settled is None:
        return True
    if concurrent.futures.wait([settled], seconds).not_done:
        return False
    with suppress(CheckpointerClosed, WorkerCrashed):  # told where it belongs: on the handles
        settled.result()
    return True


def _late(waiting: Waiting, said: str, timeout: float | None) -> TimeoutError:
    """What is raised when it is over."""
    if not waiting.is_cut_short:
        return TimeoutError(said.format(timeout))
    return PreemptionTimeoutError(f"this process will be killed: {said.format(round(waiting.spent, 1))}")
