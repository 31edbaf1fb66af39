"""Systems under measurement, each driven as its own documentation says, behind one small interface."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor

from benchmarks.subjects import Subject

OWN = "asyncckpt"
"""This project."""

BY_NAME = f"{OWN}.restore"
"""This project with ``restore()``, where a start is measured otherwise, with ``resume()``."""

THREAD, PROCESS, PACED = f"{OWN}.thread", f"{OWN}.process", f"{OWN}.paced"
"""This project with its work in a thread, in a process, and in a process that is paced."""


class System(Protocol):
    """One way of saving one subject below one folder."""

    waited: float
    """Seconds that updates of the subject were held until it had been copied."""

    def after_step(self, step: int) -> None:
        """What the training loop calls after every step, saving or not."""
        ...

    def save(self, step: int) -> None:
        """What it calls to save."""
        ...

    def before_update(self) -> None:
        """What it must call before it changes what is being copied."""
        ...

    def wait(self) -> None:
        """Return once the last save is durable: every file synced; in any thread."""
        ...

    def prune(self) -> None:
        """Delete every checkpoint but the newest, where that is not done by itself; in any thread."""
        ...

    def load(self) -> Mapping[str, Tensor]:
        """The newest checkpoint in memory of its own."""
        ...

    def restore(self) -> None:
        """The newest checkpoint back into the subject's tensors."""
        ...

    def close(self) -> None: ...


_CLASSES = {
    OWN: "own:Asyncckpt",
    BY_NAME: "own:ByName",
    THREAD: "own:InThread",
    PROCESS: "own:InProcess",
    PACED: "own:Paced",
    "torch.save": "torch_save:TorchSave",
    "safetensors": "safetensors_file:SafetensorsFile",
    "dcp.thread": "dcp:DcpThread",
    "dcp.process": "dcp:DcpProcess",
    "torch_checkpointing": "torch_checkpointing_manager:TorchCheckpointing",
    "lightning": "lightning_io:Lightning",
    "torchsnapshot": "torchsnapshot_take:TorchSnapshot",
}


def is_own(name: str) -> bool:
    """Whether system `name` is this project, in whatever way it saves."""
    return name == OWN or name.startswith(f"{OWN}.")


PEERS = tuple(name for name in _CLASSES if not is_own(name))

QUICK_PEERS = ("torch.save", "safetensors", "dcp.thread")
"""The peers of a quick run: importing and starting the others takes longer than all it measures."""


def loaded(name: str) -> type:
    """The class of system `name`, its library imported."""
    module, of = _CLASSES[name].split(":")
    return cast(type, getattr(importlib.import_module(f"benchmarks.systems.{module}"), of))


def make(name: str, subject: Subject, root: Path, *, keep_all: bool = False) -> System:
    """System `name` for `subject`, below `root`; with `keep_all` it deletes nothing by itself."""
    made = loaded(name)(subject, root, keep_all)
    subject.before_update(made.before_update)
    return cast(System, made)
