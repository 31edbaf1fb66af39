"""torch_checkpointing: its manager saves from a process of its own.

Without its direct I/O, which fails on ext4 where the last block is not full (EINVAL as its stream closes). Its
staging memory is made before the first save, as its documentation advises and as ours is.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.subjects import Subject, state_of, tensors_of
from benchmarks.systems.peer import Peer


class TorchCheckpointing(Peer):
    """``save`` returns a future; its lock is free once the state is copied."""

    def __init__(self, subject: Subject, root: Path, keep_all: bool) -> None:
        super().__init__(subject, root, keep_all)
        manager: Any = import_module("torch_checkpointing").CheckpointManager
        storage: Any = import_module("torch_checkpointing.storage.filesystem").LocalFileSystemStorageConfig
        self._manager = manager(manager.Config(storage_config=storage(use_direct_io=False)))
        self._saved: Any = None

    def after_step(self, step: int) -> None:
        if step == 1:
            self._manager.prewarm_staging(state_of(self.subject))

    def save(self, step: int) -> None:
        self._saved = self._manager.save(self.target(step), state_of(self.subject))

    def staged(self) -> None:
        with self._manager.lock():
            pass

    def written(self) -> None:
        self._saved.result()

    def load(self) -> Mapping[str, Tensor]:
        empty = {name: torch.empty_like(t) for name, t in self.subject.model.state_dict().items()}
        return tensors_of(dict(self._manager.load(self.path, into={"model": empty})))

    def restore(self) -> None:
        self._manager.load(self.path, into=state_of(self.subject))

    def close(self) -> None:
        self._manager.close()
