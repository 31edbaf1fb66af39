"""Early stopping: whether a metric has gone without improvement for too long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from asyncckpt.retention import Monitor
from asyncckpt.saves.deciding import numbers


class EarlyStopping:
    """Counts how often in a row the monitored metric was not better than its best by more than `threshold`.

    Give it to the checkpointer as an extra, ``extra={"early": early}``, and the count goes on after a resume.
    `patience` is the count at which `should_stop` becomes true. A value that was no improvement is never the new best,
    so that a metric that creeps by less than `threshold` each time does improve once it has crept further than that.
    NaN is no improvement. Raises `ValueError` for what cannot be meant.
    """

    best: float | None = None
    """The best value so far."""
    count: int = 0
    """How many values in a row were no improvement since."""

    def __init__(self, monitor: Monitor, *, patience: int, threshold: float = 0.0) -> None:
        if monitor[1] not in ("min", "max"):
            raise ValueError(f'monitor={monitor!r}: use ("metric", "min") or ("metric", "max")')
        if patience < 1:
            raise ValueError(f"patience={patience!r}: give how many times may pass without improvement, 1 or more")
        if not 0 <= threshold < math.inf:
            raise ValueError(f"threshold={threshold!r}: give by how much a value has to be better, 0 or more")
        self.monitor = monitor
        self.patience = patience
        self.threshold = threshold

    @property
    def should_stop(self) -> bool:
        """Whether that is as many as `patience` allows."""
        return self.count >= self.patience

    def update(self, metrics: Mapping[str, Any]) -> bool:
        """Take the monitored metric into account, where `metrics` has it; returns whether it improved."""
        watched = numbers(metrics, self.monitor, every=False)
        if not watched:
            return False
        (value,) = watched.values()
        is_better = self._is_better(value)
        if is_better:
            self.best = value
        self.count = 0 if is_better else self.count + 1
        return is_better

    def reset(self) -> None:
        """Begin anew, as for another phase of the training."""
        self.best, self.count = None, 0

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        ahead = self.best - value if self.monitor[1] == "min" else value - self.best
        return ahead > self.threshold  # NaN, of two equal infinities, is not

    # -- among the extras ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs; how patient it is, is each start's own to say."""
        return {"metric": self.monitor[0], "mode": self.monitor[1], "best": self.best, "count": self.count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises `ValueError` where that was about another metric."""
        metric, mode = state_dict["metric"], state_dict["mode"]
        if (metric, mode) != tuple(self.monitor):
            raise ValueError(f"it counted {metric!r} ({mode}) before, and counts {self.monitor!r} now")
        self.best, self.count = state_dict["best"], state_dict["count"]
