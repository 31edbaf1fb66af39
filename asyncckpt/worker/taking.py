"""Taking: how far a snapshot has been both digested and written, where its bytes are given back after that."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from asyncckpt.worker.job import PlannedPack
from asyncckpt.worker.watermark import Watermark


class Taking:
    """Tells `watermark`; from any thread."""

    def __init__(self, watermark: Watermark, packs: Sequence[PlannedPack]) -> None:
        self._watermark = watermark
        self._ends = [pack.start + pack.length for pack in packs]
        self._written = [pack.start for pack in packs]
        self._digested = 0
        self._lock = threading.Lock()

    def digested(self, upto: int) -> None:
        """Everything before `upto` is."""
        with self._lock:
            self._digested = upto
            self._tell()

    def wrote(self, number: int, upto: int) -> None:
        """Pack `number` is written before `upto`."""
        with self._lock:
            self._written[number] = upto
            self._tell()

    def _tell(self) -> None:
        reached = (at for at, end in zip(self._written, self._ends, strict=True) if at < end)
        self._watermark.take(min(next(reached, self._ends[-1]), self._digested))
