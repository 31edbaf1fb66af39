"""Peer: what the other systems have in common: a path of its own for each save, and nothing else to do."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks.pages import sync
from benchmarks.subjects import Subject


class Peer:
    """Base of every system but this project's."""

    def __init__(self, subject: Subject, root: Path, keep_all: bool) -> None:
        root.mkdir()
        self.subject = subject
        self.path = root
        self.waited = 0.0
        self._root = root

    def target(self, step: int) -> Path:
        """Where the save of `step` goes; `path` from now on."""
        self.path = self._root / str(step)
        return self.path

    def after_step(self, step: int) -> None:
        """Nothing to do."""

    def before_update(self) -> None:
        """Wait until the subject is copied."""
        began = time.perf_counter()
        self.staged()
        self.waited += time.perf_counter() - began

    def staged(self) -> None:
        """Return once the subject may change; at once where `save` returns only then."""

    def written(self) -> None:
        """Return once the files are complete, synced or not."""

    def wait(self) -> None:
        self.written()
        sync(self.path)

    def prune(self) -> None:
        for path in self._root.iterdir():
            if path != self.path:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Nothing to close."""
