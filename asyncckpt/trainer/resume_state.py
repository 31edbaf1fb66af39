"""Resume state: where a training stands between two phases, as plain data that JSON can say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from asyncckpt.errors import UnsupportedFormat
from asyncckpt.state.rng import capture_rng, restore_rng
from asyncckpt.trainer.among import means
from asyncckpt.trainer.amounts import Amount, read, weighted
from asyncckpt.trainer.phases import TrainerPhase

VERSION = "v2.0"

MIGRATIONS: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {}
"""What an older version says, in the words of a newer: the result names that in ``version``."""


@dataclass(kw_only=True)
class TrainMicroState:
    """Within an epoch: `batch_idx` batches are over, `micro_step` of them have gradients that no step was made of.

    `loss_sum` is of all batches of the epoch, weighted by their samples, of which there were `num_samples`;
    `additional_metrics` are what the last batch
    has given.
    """

    batch_idx: int = 0
    micro_step: int = 0
    loss_sum: Amount = 0.0
    num_samples: int = 0
    additional_metrics: dict[str, Any] = field(default_factory=dict)

    def add(self, loss: Tensor, samples: int) -> None:
        """Another batch, whose gradients were added to those that there are."""
        # On a CPU it is read for next to nothing; a loss of which there are gradients is one number.
        self.loss_sum += loss.item() * samples if loss.is_cpu else weighted("loss", loss, samples)
        self.num_samples += samples
        self.micro_step += 1

    def means(self) -> dict[str, float]:
        """The mean loss over all samples so far, of all ranks; none where there are no samples."""
        return means({"loss": self.loss_sum}, self.num_samples)

    def to_dict(self) -> dict[str, Any]:
        """The fields by their names; of the metrics those that are numbers."""
        amounts = {"loss_sum": float(self.loss_sum), "additional_metrics": read(self.additional_metrics)}
        return {**vars(self), **amounts}


@dataclass(kw_only=True)
class ValMicroState:
    """Within a validation: `batch_idx` batches are over; `loss_sum` and `metrics` are sums, weighted by samples.

    Of these there were `num_samples`. `loss_sum` is None as long as no batch has given a loss.
    """

    batch_idx: int = 0
    loss_sum: Amount | None = None
    metrics: dict[str, Amount] = field(default_factory=dict)
    num_samples: int = 0

    def add(self, given: Mapping[str, Any], samples: int) -> None:
        """The metrics of another batch. Raises `TrainerError` for what is no number."""
        self.num_samples += samples
        for name, value in given.items():
            amount = weighted(name, value, samples)
            if name == "loss":
                self.loss_sum = amount if self.loss_sum is None else self.loss_sum + amount
            else:
                self.metrics[name] = self.metrics.get(name, 0.0) + amount

    def means(self) -> dict[str, float]:
        """Over all samples so far, of all ranks, each as ``val_...``."""
        sums = self.metrics if self.loss_sum is None else {"loss": self.loss_sum, **self.metrics}
        return means({f"val_{name.removeprefix('val_')}": total for name, total in sums.items()}, self.num_samples)

    def to_dict(self) -> dict[str, Any]:
        """The fields by their names."""
        loss = None if self.loss_sum is None else float(self.loss_sum)
        return {**vars(self), "loss_sum": loss, "metrics": read(self.metrics)}


@dataclass(frozen=True, kw_only=True)
class RNGState:
    """The random states of a process: python's, numpy's where it is in use, torch's, and every device's by its name."""

    python: tuple[Any, ...]
    torch: bytes
    numpy: Mapping[str, Any] | None = None
    devices: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def capture(cls) -> RNGState:
        """Those of now, which are not changed by it."""
        return cls(**capture_rng())

    def restore(self) -> list[str]:
        """Put back what this process has a place for; returns a sentence for each part that has none."""
        return restore_rng(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The fields by their names; `numpy` only where it is known."""
        known = {} if self.numpy is None else {"numpy": self.numpy}
        return {"python": self.python, "torch": self.torch, "devices": dict(self.devices), **known}


@dataclass(kw_only=True)
class ResumeState:
    """The phase that comes next, after `epoch` completed epochs and `global_step` completed optimizer steps.

    `train` is there in phases of training only, `val` in those of validation only. `logs` are the metrics of the epoch
    that is over or about to be. `rng` and `timestamp` (seconds since the epoch) are of the save.
    """

    phase: TrainerPhase
    epoch: int
    global_step: int
    version: str = VERSION
    train: TrainMicroState | None = None
    val: ValMicroState | None = None
    rng: RNGState | None = None
    timestamp: float = 0.0
    logs: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.train = self.train if self.phase.is_train else None
        self.val = self.val if self.phase.is_val else None

    def of_now(self) -> ResumeState:
        """The same, with the random states and the time of now."""
        named = {name: getattr(self, name) for name in ("phase", "epoch", "global_step", "train", "val", "logs")}
        return ResumeState(**named, rng=RNGState.capture(), timestamp=time.time())

    def to_dict(self) -> dict[str, Any]:
        """Plain values: dicts, lists, numbers, text and bytes."""
        return {
            "version": self.version,
            "phase": self.phase.value,
            "epoch": self.epoch,
            "global_step": self.global_step,
            "train": None if self.train is None else self.train.to_dict(),
            "val": None if self.val is None else self.val.to_dict(),
            "rng": None if self.rng is None else self.rng.to_dict(),
            "timestamp": self.timestamp,
            "logs": dict(self.logs),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ResumeState:
        """The inverse of `to_dict`; an older version is migrated. Raises `UnsupportedFormat` for a newer one."""
        while data["version"] in MIGRATIONS:
            data = MIGRATIONS[data["version"]](data)
        version = data["version"]
        if version != VERSION:
            raise UnsupportedFormat(f"where the training stood was written in version {version}, this is {VERSION}")
        try:
            phase = TrainerPhase(data["phase"])
        except ValueError:
            raise UnsupportedFormat(
                f"the training stood in the phase {data['phase']!r} of a newer version than this {VERSION}"
            ) from None
        return cls(
            phase=phase,
            epoch=data["epoch"],
            global_step=data["global_step"],
            train=None if data["train"] is None else TrainMicroState(**data["train"]),
            val=None if data["val"] is None else ValMicroState(**data["val"]),
            rng=None if data["rng"] is None else RNGState(**data["rng"]),
            timestamp=data["timestamp"],
            logs=dict(data["logs"]),
        )
