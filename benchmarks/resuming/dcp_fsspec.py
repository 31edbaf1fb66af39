"""torch.distributed.checkpoint over s3fs, and its own way to the state of a model and an optimizer."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from benchmarks.loop import Training

import_module("s3fs")  # which the reader would import


class Resuming:
    """It reads into a state dict that is complete: it has the optimizer make its state first."""

    def __init__(self, training: Training, url: str, options: dict[str, Any]) -> None:
        self._training, self._url, self._options = training, url, options

    def save(self) -> None:
        save(self._state(), storage_writer=FsspecWriter(self._url, **self._options), no_dist=True)

    def read(self) -> None:
        state = self._state()
        load(state, storage_reader=FsspecReader(self._url, **self._options), no_dist=True)
        set_state_dict(
            self._training.model,
            self._training.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._training.model, self._training.optimizer)
        return {"model": model, "optimizer": optimizer}
