"""A training with one of everything, run for a few steps by one process and gone on with by another."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from asyncckpt import AsyncCheckpointer, SavePolicy

EPOCH = 5


class Loader:
    """Batches in a new order at each epoch, drawn from a generator of its own; knows where it stands."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.data = torch.arange(40.0).reshape(20, 2)
        self.order: list[int] = []
        self.served = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            if self.served % EPOCH == 0:
                self.order = torch.randperm(20, generator=self.generator).tolist()
            at = self.served % EPOCH * 4
            self.served += 1
            yield self.data[self.order[at : at + 4]]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "order": self.order, "served": self.served}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.order, self.served = list(state["order"]), state["served"]


class Metrics:
    """Running numbers, of the types people keep them in."""

    def __init__(self) -> None:
        self.total = np.float64(0)
        self.history: list[tuple[int, float]] = []
        self.seen: set[int] = set()

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "history": self.history, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.history, self.seen = state["total"], state["history"], state["seen"]


class Whole:
    """Dropout, batch norm, a learning rate that changes, a scaler that grows, an average, a loader, metrics."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self.model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05, amsgrad=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.1, total_steps=50)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.loader = Loader(seed)
        self.metrics = Metrics()
        self.batches = iter(self.loader)

    def step(self, number: int) -> float:
        batch = next(self.batches) + random.random() + float(np.random.rand()) + torch.randn(4, 2)
        loss = self.model(batch).square().mean()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.ema.update_parameters(self.model)
        self.metrics.total += loss.item()
        self.metrics.history.append((number, loss.item()))
        self.metrics.seen.add(int(batch.sum().item()))
        return loss.item()

    def digest(self) -> str:
        """Everything at the end, as text to the last bit."""
        states = [self.model, self.optimizer, self.schedule, self.scaler, self.ema, self.loader, self.metrics]
        draws = [random.random(), float(np.random.rand()), torch.rand(3).tolist()]
        return repr([[_text(state.state_dict()) for state in states], draws])


def _text(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (str(value.dtype), value.double().tolist() if value.dtype != torch.uint8 else value.tolist())
    if isinstance(value, dict):
        return {key: _text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return sorted(value) if isinstance(value, set) else value


def run(root: Path | None, seed: int, until: int) -> dict[str, Any]:
    """Train until step `until`, from where `root` stands, saving at every step."""
    whole = Whole(seed)
    losses: list[str] = []
    if root is None:
        losses = [whole.step(number).hex() for number in range(1, until + 1)]
        return {"start": 0, "losses": losses, "digest": whole.digest()}
    with AsyncCheckpointer(
        root,
        model=whole.model,
        optimizer=whole.optimizer,
        scheduler=whole.schedule,
        scaler=whole.scaler,
        dataloader=whole.loader,
        extra={"ema": whole.ema, "metrics": whole.metrics},
        save=SavePolicy(every_steps=1),
        verify="always",
    ) as checkpointer:
        state = checkpointer.resume()
        start = state.step if state else 0
        for number in range(start + 1, until + 1):
            losses.append(whole.step(number).hex())
            checkpointer.step(number)
        checkpointer.save(until).wait()
    return {"start": start, "losses": losses, "digest": whole.digest()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
