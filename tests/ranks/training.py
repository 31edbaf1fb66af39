"""A training as its ranks see it: a model wrapped in DDP, and a loader, random draws and extras of each rank's own."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from asyncckpt import AsyncCheckpointer
from asyncckpt.state.stateful import State
from asyncckpt.storage.base import Storage


class Loader:
    """Batches that depend on the rank and on how many were taken."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.taken = 0

    def batch(self) -> Tensor:
        self.taken += 1
        return torch.randn(4, 8, generator=torch.Generator().manual_seed(1000 * self.rank + self.taken))

    def state_dict(self) -> State:
        return {"rank": self.rank, "taken": self.taken}

    def load_state_dict(self, state: State) -> None:
        self.rank, self.taken = state["rank"], state["taken"]


class Tally:
    """An extra with a tensor and a value, different on every rank."""

    def __init__(self, rank: int) -> None:
        self.sums = torch.zeros(3 + rank)
        self.owner: object = f"rank {rank}"

    def state_dict(self) -> State:
        return {"sums": self.sums, "owner": self.owner}

    def load_state_dict(self, state: State) -> None:
        self.sums.copy_(state["sums"])
        self.owner = state["owner"]


@dataclass
class Seen:
    """Everything that must come out alike, bit for bit, whether a training was interrupted or not."""

    losses: list[float]
    draws: list[float]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    loader: State
    tally: State


class Training:
    """One rank's part."""

    def __init__(self, seed: int = 0) -> None:
        rank = dist.get_rank()
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))
        # Otherwise DDP groups the gradients anew after the first step of a process, and with three ranks that
        # changes the order in which they are added.
        self.model = DistributedDataParallel(model, find_unused_parameters=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3)
        self.loader = Loader(rank)
        self.tally = Tally(rank)
        self.losses: list[float] = []
        self.draws: list[float] = []
        for seeded in (torch.manual_seed, random.seed, np.random.seed):
            seeded(seed + 100 + rank)

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpointer is given."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "dataloader": self.loader,
            "extra": {"tally": self.tally},
        }

    def checkpointer(self, root: Path | Storage, **options: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(root, **self.parts, **options)

    def step(self) -> None:
        """One optimizer step, and a draw from every source of random numbers."""
        loss = self.model(self.loader.batch()).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.tally.sums += loss.detach()
        self.losses.append(loss.item())
        self.draws += [torch.rand(()).item(), random.random(), np.random.random()]

    @property
    def seen(self) -> Seen:
        """What became of it."""
        return Seen(
            self.losses,
            self.draws,
            {name: value.clone() for name, value in self.model.module.state_dict().items()},
            self.optimizer.state_dict(),
            self.loader.state_dict(),
            {**self.tally.state_dict(), "sums": self.tally.sums.clone()},
        )
