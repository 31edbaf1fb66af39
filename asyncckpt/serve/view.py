"""View: a run as pages show it: what was gathered of it, and what follows from that, reckoned once."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from asyncckpt.format.record import Checkpoint
from asyncckpt.inspection.summary import Summary, summaries
from asyncckpt.report import Gathered
from asyncckpt.report.checkpoints import Line, lines
from asyncckpt.retention import Monitor
from asyncckpt.serve.curves import Chart, Series, chart, spark
from asyncckpt.serve.saves import NOTHING, Timeline, timeline

LATE = 3.0
"""A save is late once it has taken this many times as long as usually lies between two."""
CHARTS = 24
"""Metrics that are drawn."""
_USUAL = 50
"""Of how many of the newest checkpoints that is judged."""

GROUPS: Mapping[str, frozenset[str]] = {
    "kept": frozenset({"durable", "partial", "damaged"}),
    "pruned": frozenset({"pruned"}),
    "damaged": frozenset({"damaged"}),
    "failed": frozenset({"failed"}),
    "passed over": NOTHING - {"failed"},
}
"""What a person picks from the list of checkpoints, and the states in it."""


@dataclass(frozen=True)
class Spread:
    """Seconds: what is usual, the median, and the most."""

    usual: float
    most: float


class View:
    """The run called `name`, as of one look."""

    def __init__(self, name: str, run: Gathered) -> None:
        self.name = name
        self.run = run
        self._charts: dict[bool, Sequence[Chart]] = {}

    @cached_property
    def lines(self) -> Sequence[Line]:
        """Every save, the newest first; those that came to nothing among the others, by their steps."""
        made = sorted(lines(self.run), key=lambda line: (line.step, line.id), reverse=True)
        return tuple(made)

    @cached_property
    def timeline(self) -> Timeline | None:
        """The picture of the saves."""
        return timeline(self.run, self.lines)

    def charts(self, *, is_log: bool) -> Sequence[Chart]:
        """A picture of each metric, of the first `CHARTS`."""
        if is_log not in self._charts:
            self._charts[is_log] = list(self._drawn(is_log=is_log))
        return self._charts[is_log]

    def _drawn(self, *, is_log: bool) -> Iterator[Chart]:
        marks = [(step, f"training went on from step {step:,}") for step in self.run.history.resumed]
        if self.best is not None:
            marks.append((self.best.step, f"best: step {self.best.step:,}"))
        for name in self.names[:CHARTS]:
            yield chart(name, [Series(name, *self.run.history.series(name))], marks=marks, is_log=is_log)

    @cached_property
    def final(self) -> float | None:
        """The last value of the first metric."""
        return self.run.history.series(self.names[0])[1][-1] if self.names else None

    @cached_property
    def spark(self) -> str:
        """The course of the first metric, small."""
        return spark(self.run.history.series(self.names[0])[1]) if self.names else ""

    @cached_property
    def summaries(self) -> Mapping[int, Summary]:
        """What is listed, by its sequence number, oldest first."""
        return {summary.info.seq: summary for summary in summaries(self.run.listing)}

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many there are in each of `GROUPS`."""
        return {group: sum(line.state in states for line in self.lines) for group, states in GROUPS.items()}

    @cached_property
    def created(self) -> Sequence[float]:
        """When the checkpoints that are listed were saved, by the order of their saves."""
        return [checkpoint.created / 1e6 for checkpoint in self.run.listing.checkpoints]

    @property
    def latest(self) -> float | None:
        """When the newest of them was saved."""
        return self.created[-1] if self.created else None

    @cached_property
    def usual(self) -> float | None:
        """Seconds from one save to the next, as they mostly are; None where too few are known.

        Retention thins out what is listed: the log of saves knows better, where there is one.
        """
        durable = [row.metrics.get("created") for row in self.run.events if row.event == "durable"]
        times = sorted([created for created in durable if created is not None] or self.created)[-_USUAL:]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        return statistics.median(gaps) if len(gaps) > 1 else None

    @cached_property
    def took(self) -> Spread | None:
        """From the save call to durable; None where no log of saves was kept."""
        return _spread([line.seconds for line in self.lines])

    @cached_property
    def stalled(self) -> Spread | None:
        """For which the training stood still for a save; None where that was not logged."""
        return _spread([line.stalled for line in self.lines])

    @property
    def is_held(self) -> bool:
        """Whether a training has the run open, or died with it open."""
        head = self.run.listing.head
        return head is not None and head.kind != "close"

    def late(self, now: float) -> float | None:
        """Seconds since the newest checkpoint, where a training has the run and that is unusually long."""
        if not self.is_held or self.latest is None or self.usual is None:
            return None
        gone = now - self.latest
        return gone if gone > LATE * max(self.usual, 1.0) else None

    @cached_property
    def monitor(self) -> Monitor | None:
        """The metric that says which checkpoint is best."""
        return self.run.listing.monitor

    @cached_property
    def best(self) -> Checkpoint | None:
        """The best by that."""
        return self.run.listing.best

    @cached_property
    def size(self) -> int:
        """Bytes of state of all that are listed."""
        return sum(checkpoint.size for checkpoint in self.run.listing.checkpoints)

    @cached_property
    def names(self) -> Sequence[str]:
        """Every metric: what says which checkpoint is best first, then as they were logged."""
        known = self.run.history.names
        first = [self.monitor[0]] if self.monitor is not None and self.monitor[0] in known else []
        return tuple(dict.fromkeys([*first, *known]))


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), max(known)) if known else None
