"""Ending: waiting for everything that was begun, and letting everything go."""

from __future__ import annotations

import time

from asyncckpt.errors import SaveFailed
from asyncckpt.handle import ended, untold, wait_all
from asyncckpt.late import LateMetrics
from asyncckpt.metrics.exporter import Exporter
from asyncckpt.saving import Saver
from asyncckpt.stopping import Stopping
from asyncckpt.worker.executor import Executor


class Ending:
    """Of one checkpointer."""

    def __init__(
        self, saver: Saver, late: LateMetrics, executor: Executor, stopping: Stopping, exporter: Exporter | None
    ) -> None:
        self._saver = saver
        self.late = late
        self._executor = executor
        self._stopping = stopping
        self._exporter = exporter

    def wait(self, timeout: float | None) -> None:
        """See `AsyncCheckpointer.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._saver.settle()
        left = wait_all(self._saver.handles, timeout)
        if left:
            raise TimeoutError(f"after {timeout} s still under way: steps {[h.step for h in left]}")
        if not self.late.settle(None if deadline is None else max(0.0, deadline - time.monotonic())):
            raise TimeoutError(f"every save is durable, but after {timeout} s late metrics were not attached yet")
        if not self._executor.settle(None if deadline is None else max(0.0, deadline - time.monotonic())):
            raise TimeoutError(f"every save is durable, but after {timeout} s retention was still running")
        self.raise_untold()

    def close(self, limit: float) -> SaveFailed | None:
        """Wait for `limit` seconds, or for as long as a notice has left, and let go; returns what has failed."""
        limit = self._stopping.limited(limit)
        deadline = time.monotonic() + limit
        self._saver.settle()
        left = wait_all(self._saver.handles, limit)
        self._stopping.close()
        self.late.close(max(0.0, deadline - time.monotonic()))
        self._executor.close(max(0.0, deadline - time.monotonic()))
        self._saver.close(max(0.0, deadline - time.monotonic()))
        if self._exporter is not None:
            self._exporter.close()
        return ended(self._saver.handles, left, limit)

    def raise_untold(self) -> None:
        """Raise what has failed and nobody was told of."""
        failures = untold(self._saver.handles)
        if failures is not None:
            raise failures
