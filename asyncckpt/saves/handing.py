"""Handing over: a save between the training thread that made it, the copier that submits it, and who takes it back."""

from __future__ import annotations

import threading
from collections.abc import Callable

from asyncckpt.saves.handle import SaveHandle
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.worker.job import SaveJob


class WorkersPart:
    """The worker's hold on the arena of `snapshot`: it is let go once, and then nothing here keeps the memory."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot: Snapshot | None = snapshot
        self._lock = threading.Lock()

    def let_go(self) -> None:
        """The worker reads no more of it; from any thread, and any number of times."""
        with self._lock:
            snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            snapshot.stop()
            snapshot.release()


class HandOver:
    """A job on its way to the worker.

    The copier submits it, since waking the worker from the training thread costs that the interpreter lock. Until
    the worker has begun it, the training thread may take it back.
    """

    def __init__(self, job: SaveJob, handle: SaveHandle, snapshot: Snapshot) -> None:
        self.job = job
        self.handle = handle
        self.snapshot = snapshot
        self._is_submitted = False
        self._is_withdrawn = False
        self._lock = threading.Lock()

    def submit(self, submit: Callable[[], None]) -> None:
        """Submit it by `submit`, unless it was taken back."""
        with self._lock:
            if not self._is_withdrawn:
                self._is_submitted = True  # also if it fails: then its failure ends the save, and nothing else may
                submit()

    def withdraw(self, withdraw: Callable[[str], bool]) -> bool:
        """Take it back, by `withdraw` where it was submitted; False if it is too late for that."""
        with self._lock:
            if not self._is_withdrawn:
                self._is_withdrawn = not self._is_submitted or withdraw(self.job.id)
            return self._is_withdrawn
