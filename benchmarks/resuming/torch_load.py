"""``torch.save`` and ``torch.load`` of a file that s3fs opens, and ``load_state_dict``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from benchmarks.loop import Training

_s3fs: Any = import_module("s3fs")


class Resuming:
    """One file."""

    def __init__(self, training: Training, url: str, options: dict[str, str]) -> None:
        self._training, self._path = training, f"{url}/state.pt"
        self._files: Any = _s3fs.S3FileSystem(**options)

    def save(self) -> None:
        state = {"model": self._training.model.state_dict(), "optimizer": self._training.optimizer.state_dict()}
        with self._files.open(self._path, "wb") as file:
            torch.save(state, file)

    def read(self) -> None:
        with self._files.open(self._path, "rb") as file:
            state = torch.load(file)
        self._training.model.load_state_dict(state["model"])
        self._training.optimizer.load_state_dict(state["optimizer"])
