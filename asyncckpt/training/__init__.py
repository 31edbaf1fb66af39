"""Training: what a loop may want beside its checkpointer; nothing of the core knows of it.

`Callbacks` are functions that are called with what becomes of each checkpoint. `EarlyStopping` says when to stop.
`HistoryFile`, `BestTag` and `LatestTag` keep a file and tags up to date with the catalog. `CheckpointConfig` says in
one value when to save, what of, and what stays.
"""

from __future__ import annotations

from asyncckpt.training.callbacks import Callback, Callbacks, Moment
from asyncckpt.training.config import CheckpointConfig
from asyncckpt.training.early_stopping import EarlyStopping
from asyncckpt.training.history_file import HistoryFile
from asyncckpt.training.moving_tags import BestTag, LatestTag

__all__ = [
    "BestTag",
    "Callback",
    "Callbacks",
    "CheckpointConfig",
    "EarlyStopping",
    "HistoryFile",
    "LatestTag",
    "Moment",
]
