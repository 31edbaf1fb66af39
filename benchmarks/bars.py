"""Bar: a number that this project means to reach, or only to state. Where it does not reach it, the table says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.results import Row
from benchmarks.systems import OWN


@dataclass(frozen=True)
class Bar:
    """The median of `metric` is at most `limit`, or at least, in every case whose name contains `case`.

    None is no limit: the median is only stated.
    """

    metric: str
    limit: float | None
    at_least: bool = False
    case: str = ""

    def verdicts(self, rows: Iterable[Row], *, disturbed: bool) -> Iterator[str]:
        """One line for each row of this project that the bar is about."""
        for entry in rows:
            if entry.system == OWN and entry.metric == self.metric and self.case in entry.case:
                yield self._verdict(entry, disturbed)

    def _verdict(self, entry: Row, disturbed: bool) -> str:
        found = f"{entry.case}: {entry.metric} {entry.median:.4g} {entry.unit}".rstrip()
        if self.limit is None:
            return f"no bar: {found}"
        reached = entry.median >= self.limit if self.at_least else entry.median <= self.limit
        wanted = f"at {'least' if self.at_least else 'most'} {self.limit:g}"
        share = f": {entry.median / self.limit:.2f} of it" if self.limit else ""
        word = "not judged (others used the machine)" if disturbed else "met" if reached else "MISSED"
        return f"bar {word}: {found}, {wanted}{share}"
