"""Loading: a checkpoint as plain nested dicts, without a model and without a checkpointer."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from asyncckpt.arguments import several
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import CheckpointInfo, Which
from asyncckpt.errors import IncompatibleState
from asyncckpt.restores.restoring import SHARED, own_scope, read_named
from asyncckpt.state.apply import only_parts
from asyncckpt.state.training_state import TrainingState, training_state
from asyncckpt.storage import opened
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import bounded_reading
from asyncckpt.storage.stopped import unheld


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint: its nested `state`, and what the catalog says of it (`info`)."""

    state: dict[str, Any]
    info: CheckpointInfo

    @property
    def training(self) -> TrainingState:
        """Where the training stood, with the states of optimizer, scheduler and random numbers as plain dicts."""
        return replace(
            training_state(self.info, self.state),
            optimizer_state=self.state.get("optimizer"),
            scheduler_state=self.state.get("scheduler"),
            random_state=self.state.get("rng"),
        )


def load(
    root: str | os.PathLike[str] | Storage,
    which: Which = "latest",
    *,
    only: Collection[str] | None = None,
    device: str | torch.device = "cpu",
    storage_options: Mapping[str, Any] | None = None,
    only_encrypted: bool = False,
) -> Loaded:
    """Read checkpoint `which` of `root`: "latest", "best", a step (int) or an id (str); every byte is checked.

    `only` names parts: ``"model"``, or ``("model", "extra.ema")``. `storage_options` are those of fsspec's file system
    for the root's scheme, and ``backend``: see `asyncckpt.storage.from_url`. Of a job of several ranks, what is rank
    0's alone is there too. With `only_encrypted` one that is not encrypted is refused (`NotEncrypted`): it may be from
    anybody. Raises `CheckpointNotFoundError`, `CheckpointCorruptError`, `StorageError`, `IncompatibleState` for a part
    that is not there, and `HeadDamaged`, which says what can be read by id then. Of a disk that hangs nothing is waited
    for that has not gone on for a minute: that is a `TransientError`. Writes nothing.
    """
    only = None if only is None else several(only)
    # Which device "cuda" means differs between threads.
    there = torch.empty(0, device=device).device
    return unheld(_load(root, storage_options, which, only, there, only_encrypted), "asyncckpt-load")


async def _load(
    root: str | os.PathLike[str] | Storage,
    options: Mapping[str, Any] | None,
    which: Which,
    only: Collection[str] | None,
    device: torch.device,
    only_encrypted: bool,
) -> Loaded:
    storage = bounded_reading(opened(root, options))
    catalog = Catalog(storage, only_encrypted=only_encrypted)
    try:
        found, info = await read_named(catalog, which, (SHARED, own_scope(0)), only=only, device=device)
        return Loaded(found.state if only is None else _parts(found.state, only, info), info)
    finally:
        if isinstance(root, str | os.PathLike):
            await storage.aclose()


def _parts(state: dict[str, Any], only: Collection[str], info: CheckpointInfo) -> dict[str, Any]:
    for part in only:
        if not only_parts(state, [part]):
            raise IncompatibleState(
                f"the checkpoint of step {info.step} has no part {part!r}: it has {', '.join(state)}"
            )
    parts: dict[str, Any] = only_parts(state, only)
    return parts
