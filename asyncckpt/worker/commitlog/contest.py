"""Contest: which of the listed checkpoints readers call the best, without a look at all of them."""

from __future__ import annotations

from collections.abc import Container

from asyncckpt.format.record import Checkpoint
from asyncckpt.retention import Monitor, best_of, monitor_of
from asyncckpt.worker.commitlog.order import Order, Ranking, by_seq


class Contest:
    """The checkpoints that it was told of, ranked by the metric that the newest of them was judged by."""

    def __init__(self) -> None:
        self._listed: dict[int, Checkpoint] = {}
        self._judged = Order(by_seq)
        """Those that name a metric."""
        self._ranking = Ranking(None)

    @property
    def monitor(self) -> Monitor | None:
        """The metric that the newest checkpoint which names one was judged by."""
        return monitor_of(self._judged.sorted[-1:])

    def add(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` is listed from now on."""
        self._listed[checkpoint.seq] = checkpoint
        if checkpoint.monitor:
            self._judged.add(checkpoint)
        self._ranking.add(checkpoint)

    def remove(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` is listed no longer."""
        del self._listed[checkpoint.seq]
        if checkpoint.monitor:
            self._judged.remove(checkpoint)
        self._ranking.remove(checkpoint)

    def best(self, without: Container[int] = (), added: Checkpoint | None = None) -> Checkpoint | None:
        """The best of what would be listed without these sequence numbers, and with `added`."""
        new = [added] if added else []
        judged = next((c for c in reversed(self._judged.sorted) if c.seq not in without), None)
        monitor = monitor_of([*new, *([judged] if judged else ())])
        if monitor != self._ranking.monitor:  # seldom: a training keeps to its metric
            self._ranking = Ranking(monitor, self._listed.values())
        former = self._ranking.first(without)
        return best_of([*new, *([former] if former else ())], monitor)
