"""``torch.save`` of the state dicts; loaded with ``mmap=True``, the faster way where every page is read anyway."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.subjects import state_of, tensors_of
from benchmarks.systems.peer import Peer


class TorchSave(Peer):
    """Blocks until everything is written."""

    def save(self, step: int) -> None:
        torch.save(state_of(self.subject), self.target(step))

    def load(self) -> Mapping[str, Tensor]:
        return tensors_of(torch.load(self.path, mmap=True))

    def restore(self) -> None:
        self.subject.model.load_state_dict(torch.load(self.path, mmap=True)["model"])
