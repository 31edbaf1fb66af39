"""Journal: the rows of one of a run's journals, in its root and in its ``logs/``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from asyncckpt.metrics_log.growing import Growing
from asyncckpt.metrics_log.rows import Row
from asyncckpt.storage.base import Storage

LOGS = "logs"

_OF_EVENTS = frozenset({"seq", "by_step", "bytes", "written", "seconds", "created", "stalled"})
"""What an event says in numbers."""
_NUMBERS = (int, float)
_LARGEST = 2**53


class Journal:
    """The journal `stem` of the run in `storage`: its `rows` by their time, as of the last look, and its `problems`."""

    def __init__(self, storage: Storage, stem: str) -> None:
        self.rows: tuple[Row, ...] = ()
        self.problems: tuple[str, ...] = ()
        self._parts = {place: Growing(storage, place) for place in (stem, f"{LOGS}/{stem}")}

    async def look(self) -> Sequence[Row]:
        """The rows: the same object as before where nothing is new. Raises `StorageError`."""
        if any([await part.look() for part in self._parts.values()]):
            sound = {place: list(filter(_is_sound, part.rows)) for place, part in self._parts.items()}
            self.rows = tuple(sorted(itertools.chain(*sound.values()), key=lambda row: row.timestamp))
            self.problems = tuple(
                f"{bad} lines of {place}.jsonl are no rows, and are left out"
                for place, part in self._parts.items()
                if (bad := part.bad + len(part.rows) - len(sound[place]))
            )
        return self.rows


def _is_sound(row: Row) -> bool:
    """Whether an event says in numbers what it has to; rows of metrics hold what anybody logs."""
    if row.event is None:
        return True
    for name, value in row.metrics.items():
        if not (type(value) in _NUMBERS and -1 < value < _LARGEST) and name in _OF_EVENTS and value is not None:
            return False
    return True
