"""asyncckpt: an asynchronous checkpoint runtime for PyTorch. The step never waits for storage.

Glossary, one word per concept: a *run* is one experiment with a root; its *state* is the named things that are
saved; a *snapshot* is the state at one completed step in an *arena* (staging memory), a *checkpoint* is a
committed snapshot in a store. Each rank's *shard* is one or more *packs* (safetensors files); an *extent* is
bytes of a pack with a digest; the *manifest* says which extents make which tensor. The *record* in a *slot* of
the commit log commits; the newest is the *head*, and the *catalog* is what it lists. A *writer* holds the run as
one *incarnation*. A *save handle* is the future of one save.

To read the source, in the order of one save: ``checkpointer`` (what the loop calls), ``lifecycle.asking``,
``saves.saving``, ``state.capture``, ``staging.layout``, ``staging.stager``, ``worker.service``, ``worker.pipeline``,
``storage.local``, ``worker.commitlog.commit``. Then one restore: ``restores.restorer``, ``restores.consensus``,
``restores.restoring``, ``fetching.reading``, ``restores.fitting``, ``state.apply``.

Names are imported when they are first used: ``import asyncckpt`` alone loads neither torch nor a thread.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from asyncckpt.version import __version__

if TYPE_CHECKING:
    from asyncckpt.budget import Budget
    from asyncckpt.checkpointer import AsyncCheckpointer
    from asyncckpt.checkpoints.diffing import Diff, diff
    from asyncckpt.checkpoints.listing import CheckpointInfo
    from asyncckpt.errors import Preempted
    from asyncckpt.metrics import MetricsConfig
    from asyncckpt.policy import SavePolicy
    from asyncckpt.preemption import Preemption
    from asyncckpt.restores.loading import Loaded, load
    from asyncckpt.retention import PrunePlan, RetentionPolicy
    from asyncckpt.run import Run
    from asyncckpt.saves.handle import SaveHandle
    from asyncckpt.staging.guards import guarded
    from asyncckpt.state.stateful import Stateful
    from asyncckpt.state.training_state import TrainingState
    from asyncckpt.worker.process.settings import ProcessConfig

_HOMES = {
    "AsyncCheckpointer": "checkpointer",
    "Budget": "budget",
    "CheckpointInfo": "checkpoints.listing",
    "Diff": "checkpoints.diffing",
    "Loaded": "restores.loading",
    "MetricsConfig": "metrics",
    "Preempted": "errors",
    "Preemption": "preemption",
    "ProcessConfig": "worker.process.settings",
    "PrunePlan": "retention",
    "RetentionPolicy": "retention",
    "Run": "run",
    "SaveHandle": "saves.handle",
    "SavePolicy": "policy",
    "Stateful": "state.stateful",
    "TrainingState": "state.training_state",
    "diff": "checkpoints.diffing",
    "guarded": "staging.guards",
    "load": "restores.loading",
}

_MODULES = ("errors", "keys")

__all__ = [
    "AsyncCheckpointer",
    "Budget",
    "CheckpointInfo",
    "Diff",
    "Loaded",
    "MetricsConfig",
    "Preempted",
    "Preemption",
    "ProcessConfig",
    "PrunePlan",
    "RetentionPolicy",
    "Run",
    "SaveHandle",
    "SavePolicy",
    "Stateful",
    "TrainingState",
    "__version__",
    "diff",
    "guarded",
    "load",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"asyncckpt.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"asyncckpt.{name}")
    raise AttributeError(f"module 'asyncckpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
