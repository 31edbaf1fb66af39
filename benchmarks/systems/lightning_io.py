"""Lightning's AsyncCheckpointIO: clones the state in the call, then ``torch.save`` in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.subjects import Subject, state_of, tensors_of
from benchmarks.systems.peer import Peer


class Lightning(Peer):
    """Its ``teardown`` is the only way to learn that a save is complete; the next save starts a new thread."""

    def __init__(self, subject: Subject, root: Path, keep_all: bool) -> None:
        super().__init__(subject, root, keep_all)
        inner: Any = import_module("lightning_fabric.plugins").TorchCheckpointIO
        self._io: Any = import_module("pytorch_lightning.plugins.io").AsyncCheckpointIO(inner())

    def save(self, step: int) -> None:
        self._io.save_checkpoint(state_of(self.subject), self.target(step))

    def written(self) -> None:
        self._io.teardown()

    def load(self) -> Mapping[str, Tensor]:
        return tensors_of(self._io.load_checkpoint(self.path))

    def restore(self) -> None:
        self.subject.model.load_state_dict(self._io.load_checkpoint(self.path)["model"])
