"""A training of a few milliseconds, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asyncckpt import AsyncCheckpointer, Run
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainingCallback

ROWS = [(torch.full((2, 3), float(number)), torch.ones(2)) for number in range(4)]


class Linear(GenericTrainer):
    """Keeps what it was given, on a thread of this process."""

    def __init__(self, config: GenericTrainerConfig) -> None:
        super().__init__(config)
        self.rates: list[float] = []

    def checkpointer(self, run: Run, objects: Mapping[str, Any]) -> AsyncCheckpointer:
        config = self.config
        return AsyncCheckpointer(
            run, **objects, save=config.save, keep=config.keep, monitor=config.monitor, preemption=config.preemption,
            executor="thread", on_busy="wait",
        )  # fmt: skip

    def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        x, y = batch
        self.rates.append(self.optimizers[0].param_groups[0]["lr"])
        return {"loss": (self.model(x).squeeze(-1) - y).square().mean()}


class Recorded(TrainingCallback):
    """The name of each hook, and what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_training_start(self, trainer: GenericTrainer) -> None:
        self.calls.append(("training_start",))

    def on_training_end(self, trainer: GenericTrainer, logs: Mapping[str, Any]) -> None:
        self.calls.append(("training_end", logs["phase"]))

    def on_epoch_start(self, trainer: GenericTrainer, epoch: int) -> None:
        self.calls.append(("epoch_start", epoch))

    def on_epoch_end(self, trainer: GenericTrainer, epoch: int, logs: Mapping[str, Any]) -> None:
        self.calls.append(("epoch_end", epoch, sorted(logs)))

    def on_batch_start(self, trainer: GenericTrainer, batch_idx: int) -> None:
        self.calls.append(("batch_start", batch_idx))

    def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
        self.calls.append(("batch_end", batch_idx, sorted(logs)))


def config(root: Path, **more: Any) -> GenericTrainerConfig:
    said: dict[str, Any] = {
        "epochs": 2,
        "checkpoint_dir": root,
        "save": None,
        "preemption": None,
        "monitor": ("loss", "min"),
    }
    return GenericTrainerConfig(**{**said, **more})


def fitted(
    trainer: GenericTrainer,
    *,
    rows: Iterable[Any] = ROWS,
    validation: Iterable[Any] | None = None,
    schedulers: int = 0,
    model: nn.Module | None = None,
    lr: float = 0.01,
) -> nn.Module:
    """The model that it has trained."""
    torch.manual_seed(5)
    model = nn.Linear(3, 1) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    made = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for _ in range(schedulers)]
    trainer.fit(model, optimizer, rows, validation, made)
    return model


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
