"""The systems under measurement, each driven as its own documentation says, behind one small interface."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from asyncckpt.events import Stalled
from benchmarks.loop import Training


class System(Protocol):
    """One way of saving a training."""

    waited: float
    """Seconds that the optimizer was held until its state had been copied."""

    def after_step(self, step: int) -> None:
        """What the training loop calls after every step, saving or not."""
        ...

    def save(self, step: int) -> None:
        """What it calls to save."""
        ...

    def before_step(self) -> None:
        """What it must call before the optimizer changes what is being copied."""
        ...

    def wait(self) -> None:
        """Return once the last save is durable: every file synced."""
        ...

    def close(self) -> None: ...


def sync(folder: Path) -> None:
    """fsync every file and folder below: what makes a checkpoint of a library that does not do so durable."""
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


class Asyncckpt:
    """This project."""

    def __init__(self, training: Training, root: Path) -> None:
        from asyncckpt import AsyncCheckpointer, RetentionPolicy

        keep = RetentionPolicy(last=1)
        # Comparing staged with live bytes is done for 1 save in 100: leaving it out is the steady state.
        self._checkpointer = AsyncCheckpointer(
            root, model=training.model, optimizer=training.optimizer, keep=keep, verify="off", listeners=[self]
        )
        self.waited = 0.0
        self._handle: Any = None

    def after_step(self, step: int) -> None:
        self._checkpointer.step(step)

    def save(self, step: int) -> None:
        self._handle = self._checkpointer.save(step)

    def before_step(self) -> None:
        """Its own hook of the optimizer has waited, where anything was left to wait for."""

    def on_event(self, event: object) -> None:
        """Add up what its hook waited."""
        if isinstance(event, Stalled) and event.where == "guard":
            self.waited += event.seconds

    def wait(self) -> None:
        self._handle.wait()

    def close(self) -> None:
        self._checkpointer.close()


class TorchSave:
    """``torch.save`` of both state dicts."""

    def __init__(self, training: Training, root: Path) -> None:
        self._training, self._root, self.waited = training, root, 0.0
        root.mkdir()

    def after_step(self, step: int) -> None:
        """Nothing to do."""

    def save(self, step: int) -> None:
        state = {"model": self._training.model.state_dict(), "optimizer": self._training.optimizer.state_dict()}
        torch.save(state, self._root / "checkpoint.pt")

    def before_step(self) -> None:
        """The save has returned."""

    def wait(self) -> None:
        sync(self._root)

    def close(self) -> None:
        """Nothing to close."""


class DcpAsync:
    """DCP's ``async_save`` in a thread, with its asynchronous stager."""

    def __init__(self, training: Training, root: Path) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self._training, self._root, self.waited = training, root, 0.0
        options = StagingOptions(
            use_pinned_memory=False, use_shared_memory=False, use_async_staging=True, use_non_blocking_copy=False
        )
        self._stager = DefaultStager(options)
        self._response: Any = None

    def after_step(self, step: int) -> None:
        """Nothing to do."""

    def save(self, step: int) -> None:
        from torch.distributed.checkpoint import state_dict_saver as saver

        shutil.rmtree(self._root, ignore_errors=True)
        state = {"model": self._training.model.state_dict(), "optimizer": self._training.optimizer.state_dict()}
        self._response = saver.async_save(state, checkpoint_id=self._root, async_stager=self._stager, no_dist=True)

    def before_step(self) -> None:
        self._response.staging_completion.result()

    def wait(self) -> None:
        self._response.upload_completion.result()
        sync(self._root)

    def close(self) -> None:
        self._stager.close()


SYSTEMS: dict[str, Callable[[Training, Path], System]] = {
    "asyncckpt": Asyncckpt,
    "torch.save": TorchSave,
    "dcp.async": DcpAsync,
}
