"""Trackers: services that are told what a training does, none of which can stop it.

``base`` is the protocol, ``fanout`` tells several, each in a ``lane`` of its own; ``console``, ``jsonlines``,
``tensorboard`` and ``wandb`` are the trackers; ``configuration`` is what they show, ``sweep`` what one has chosen.
"""

from asyncckpt.trackers.base import Tracker, TrackerUnavailable
from asyncckpt.trackers.configuration import whole_config
from asyncckpt.trackers.console import ConsoleTracker
from asyncckpt.trackers.fanout import Trackers
from asyncckpt.trackers.initializing import initialize_wandb, initialize_wandb_async
from asyncckpt.trackers.jsonlines import JsonLinesTracker
from asyncckpt.trackers.lane import LaneStatus
from asyncckpt.trackers.sweep import with_sweep
from asyncckpt.trackers.tensorboard import TensorBoardTracker
from asyncckpt.trackers.wandb import WandbTracker

__all__ = [
    "ConsoleTracker",
    "JsonLinesTracker",
    "LaneStatus",
    "TensorBoardTracker",
    "Tracker",
    "TrackerUnavailable",
    "Trackers",
    "WandbTracker",
    "initialize_wandb",
    "initialize_wandb_async",
    "whole_config",
    "with_sweep",
]
