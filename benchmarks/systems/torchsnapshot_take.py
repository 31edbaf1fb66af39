"""torchsnapshot's ``async_take``: copies in the call, then writes in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.subjects import Subject, state_of, tensors_of
from benchmarks.systems.peer import Peer


class TorchSnapshot(Peer):
    """One snapshot per save."""

    def __init__(self, subject: Subject, root: Path, keep_all: bool) -> None:
        super().__init__(subject, root, keep_all)
        self._torchsnapshot: Any = import_module("torchsnapshot")
        self._pending: Any = None

    def save(self, step: int) -> None:
        state = self._torchsnapshot.StateDict(**state_of(self.subject))
        self._pending = self._torchsnapshot.Snapshot.async_take(str(self.target(step)), {"state": state})

    def written(self) -> None:
        self._pending.wait()

    def load(self) -> Mapping[str, Tensor]:
        empty = {name: torch.empty_like(t) for name, t in self.subject.model.state_dict().items()}
        return tensors_of(dict(self._read({"model": empty})))

    def restore(self) -> None:
        self._read(state_of(self.subject))

    def _read(self, state: dict[str, Any]) -> Any:
        into = self._torchsnapshot.StateDict(**state)
        self._torchsnapshot.Snapshot(str(self.path)).restore({"state": into})
        return into
