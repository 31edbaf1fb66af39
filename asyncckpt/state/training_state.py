"""TrainingState: where a training stands, as ``resume()`` gives it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncckpt.listing import CheckpointInfo


@dataclass(kw_only=True)
class TrainingState:
    """Where a training stands after `step` completed optimizer steps; the next one is ``step + 1``."""

    step: int
    epoch: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    id: str = ""
    timestamp: float = 0.0
    """Seconds since the epoch at the save call."""
    learning_rate: float | None = None
    loss: float | None = None

    @property
    def global_step(self) -> int:
        """Another name of `step`."""
        return self.step


def training_state(info: CheckpointInfo, state: Mapping[str, Any]) -> TrainingState:
    """What `info` and the restored `state` say about where the training stands."""
    return TrainingState(
        step=info.step,
        epoch=info.epoch,
        metrics=dict(info.metrics),
        id=info.id,
        timestamp=info.created,
        learning_rate=_learning_rate(state.get("optimizer")),
        loss=info.metrics.get("loss"),
    )


def _learning_rate(optimizer: object) -> float | None:
    """The first parameter group's, where there is exactly one optimizer."""
    groups = optimizer.get("param_groups") if isinstance(optimizer, dict) else None
    rate = groups[0].get("lr") if groups else None
    return None if rate is None else float(rate)
