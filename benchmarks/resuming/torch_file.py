"""Torch file: model and optimizer as one object of ``torch.save``, which is what clients of plain objects have."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.loop import Training


def write(training: Training, file: Any) -> None:
    """The state of `training` into `file`."""
    torch.save({"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}, file)


def read(training: Training, file: Any) -> None:
    """Have `training` in the state that was written into `file`."""
    state = torch.load(file)
    training.model.load_state_dict(state["model"])
    training.optimizer.load_state_dict(state["optimizer"])
