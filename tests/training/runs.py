"""Small trainings that draw random numbers, and a comparison to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asyncckpt import AsyncCheckpointer

Optimizers = Callable[[nn.Module], Any]


class Net(nn.Module):
    """Dropout, batch norm, tied weights and a buffer: everything that resumes wrongly when done carelessly."""

    def __init__(self, width: int = 8, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, dtype=dtype)
        self.norm = nn.BatchNorm1d(width, dtype=dtype)
        self.drop = nn.Dropout(0.25)
        self.last = nn.Linear(width, width, dtype=dtype)
        self.last.weight = self.first.weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


class Training:
    """A model with one or several optimizers, a schedule for each, and an average of the model."""

    def __init__(self, seed: int, optimizers: Optimizers, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self.model = Net(dtype=dtype)
        made = optimizers(self.model)
        self.optimizers = made if isinstance(made, list) else [made]
        self.schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in self.optimizers]
        self.average = torch.optim.swa_utils.AveragedModel(self.model, use_buffers=True)
        self.dtype = dtype

    def checkpointer(self, root: Path, **options: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(
            root,
            model=self.model,
            optimizer=self.optimizers,
            scheduler=self.schedules,
            extra={"average": self.average},
            **options,
        )

    def step(self) -> str:
        """One step; its loss to the last bit."""
        noise = torch.randn(4, 8) + float(np.random.rand()) + random.random()

        def closure() -> Tensor:
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss = self.model(noise.to(self.dtype)).float().square().mean()
            loss.backward()
            return loss

        loss = closure()
        for optimizer in self.optimizers:
            optimizer.step(closure if isinstance(optimizer, torch.optim.LBFGS) else None)
        for schedule in self.schedules:
            schedule.step()
        self.average.update_parameters(self.model)
        return loss.item().hex()

    def everything(self) -> dict[str, Any]:
        """All that must be equal at the end, tensors as they are."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedules": [s.state_dict() for s in self.schedules],
            "average": dict(self.average.state_dict()),
            "draws": (random.random(), float(np.random.rand()), torch.rand(3)),
        }


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Where two nested states differ in type, structure, dtype or any bit."""
    if type(a) is not type(b) and not (isinstance(a, dict) and isinstance(b, dict)):
        yield f"{path}: {type(a).__name__} and {type(b).__name__}"
    elif isinstance(a, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        if (
            not same
            or a.cpu().contiguous().view(-1).view(torch.uint8).tolist()
            != b.contiguous().view(-1).view(torch.uint8).tolist()
        ):
            yield f"{path}: tensors differ"
    elif isinstance(a, dict):
        if list(a) != list(b):
            yield f"{path}: keys {list(a)} and {list(b)}"
        else:
            for key in a:
                yield from differences(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{path}: lengths {len(a)} and {len(b)}"
        for index, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{path}[{index}]")
    elif a != b:
        yield f"{path}: {a!r} and {b!r}"
