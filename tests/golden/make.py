"""Writes the golden run of the present format version: ``python -m tests.golden.make``. Done once per version.

The folder it makes is committed and never changed after a release: every later version has to read it.
"""

from __future__ import annotations

import random
import shutil
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.format import FORMAT

HERE = Path(__file__).parent


class Box:
    """A state of anything."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def values() -> dict[str, Any]:
    """Values of every kind that the format holds."""
    return {
        "floats": [0.1, float("inf"), -0.0],
        "big": 1 << 100,
        1: "an int key",
        "tuple": (1, [2, {"three": None}], True),
        "bytes": b"\x00\xff",
        "complex": 1 - 2j,
        "set": {3, 1, 2},
        "path": PurePosixPath("a/b"),
        "when": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
    }


def tensors() -> dict[str, Any]:
    """Tensors of many dtypes and forms."""
    base = torch.arange(12, dtype=torch.float32)
    return {
        "bfloat16": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
        "complex128": torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex128),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.empty(0, 3),
        "transposed": torch.arange(6, dtype=torch.int16).reshape(2, 3).t(),
        "base": base,
        "view": base[3:9:2],
    }


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model with tied weights and buffers, after two steps of AdamW."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.9))
    for _ in range(2):
        model(torch.ones(3, 4) * torch.arange(3).unsqueeze(1)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def seed() -> None:
    """The random state that the last save holds."""
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)


def draws() -> list[float]:
    """What is drawn next from every source, a normal one among them: it comes in pairs, and the second is kept."""
    return [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(())), float(torch.randn(()))]


def main() -> None:
    """Three saves of which two stay."""
    root = HERE / f"v{FORMAT}"
    shutil.rmtree(root, ignore_errors=True)
    model, optimizer = training()
    extra = {"values": Box(values()), "tensors": Box(tensors())}
    with AsyncCheckpointer(
        root,
        model=model,
        optimizer=optimizer,
        extra=extra,
        keep=RetentionPolicy(last=2),
        monitor=("loss", "min"),
    ) as checkpointer:
        for step, loss in ((1, 0.5), (2, 0.25), (3, float("nan"))):
            seed()
            draws()
            checkpointer.save(step, epoch=step, metrics={"loss": loss}).wait()


if __name__ == "__main__":
    main()
