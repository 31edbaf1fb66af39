"""Tallies: what this process did beside its checkpoints, counted for whoever asks: trackers, discovery, JSON files."""

from __future__ import annotations

import errno
import threading
from collections import defaultdict
from typing import Literal, TypeAlias

What: TypeAlias = Literal[
    "tracker_taken",  # by tracker
    "tracker_failed",
    "tracker_lost",
    "discoveries",
    "discovery_seconds",
    "discovery_files",
    "json_files",  # by operation
    "json_seconds",
    "json_bytes",
    "errors",  # by reason
]


class Tallies:
    """Sums, each of something and maybe under a label; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[tuple[What, str], float] = defaultdict(float)

    def add(self, what: What, label: str = "", amount: float = 1) -> None:
        """Count `amount` more."""
        with self._lock:
            self._sums[what, label] += amount

    def error(self, error: BaseException) -> None:
        """Count what went wrong with a file, by its reason: ``denied``, ``full`` or ``other``."""
        self.add("errors", _reason(error))

    def of(self, what: What, label: str = "") -> float:
        """What was counted so far."""
        with self._lock:
            return self._sums.get((what, label), 0)

    def labels(self, what: What) -> list[str]:
        """The labels under which anything was counted."""
        with self._lock:
            return sorted(label for known, label in self._sums if known == what)


TALLIES = Tallies()
"""Of this process."""


def _reason(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "denied"
    return "full" if number in (errno.ENOSPC, errno.EDQUOT) else "other"
