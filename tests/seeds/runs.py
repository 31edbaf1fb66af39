"""What the tests of the seeds' promises train, and how a run of theirs goes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, CheckpointInfo

NAN, INFINITY = float("nan"), float("inf")


class Net:
    """A model, an optimizer and a scheduler that take real steps."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.5)

    def step(self) -> float:
        loss = self.model(torch.randn(16, 4)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        return loss.item()

    @property
    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}


def opened(root: Path, **options: Any) -> AsyncCheckpointer:
    """A checkpointer in a thread, of a small model unless it is given one."""
    options.setdefault("model", nn.Linear(2, 2))
    options.setdefault("executor", "thread")
    return AsyncCheckpointer(root, **options)


def due(ckpt: AsyncCheckpointer, values: Iterable[Any], name: str = "val_loss", first: int = 1) -> list[int]:
    """The steps that were saved, of those whose metric was one of `values` (None: it was absent)."""
    found = []
    for step, value in enumerate(values, first):
        if handle := ckpt.step(step, metrics={} if value is None else {name: value}):
            handle.wait()
            found.append(step)
    return found


def saved(ckpt: AsyncCheckpointer, values: Iterable[float | None], name: str = "val_loss", first: int = 1) -> None:
    """Save the steps from `first` on, each its own epoch, with these values of the metric."""
    for step, value in enumerate(values, first):
        ckpt.save(step, epoch=step, metrics={} if value is None else {name: value}).wait()


def steps(listed: Iterable[CheckpointInfo]) -> list[int]:
    return [info.step for info in listed]


def listed(ckpt: AsyncCheckpointer) -> list[int]:
    """The steps that are listed; a look at all of them agrees, which each save does without."""
    found, plan = steps(ckpt.checkpoints()), ckpt.prune(dry_run=True)
    assert ([kept.step for kept in plan.kept], plan.removed) == (found, ())
    return found
