"""safetensors: one file of flat names. Values that are not tensors are left out, since it holds none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from torch import Tensor

from benchmarks.subjects import state_of, tensors_of
from benchmarks.systems.peer import Peer


class SafetensorsFile(Peer):
    """Blocks until everything is written."""

    def save(self, step: int) -> None:
        import_module("safetensors.torch").save_file(tensors_of(state_of(self.subject)), self.target(step))

    def load(self) -> Mapping[str, Tensor]:
        loaded: dict[str, Tensor] = import_module("safetensors.torch").load_file(self.path)
        return loaded

    def restore(self) -> None:
        model = {name: tensor for name, tensor in self.load().items() if name.startswith("model.")}
        self.subject.model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in model.items()})
