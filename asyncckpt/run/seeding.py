"""Seeding: one number for every random generator, once, at the beginning, and never over a state that was restored."""

from __future__ import annotations

import logging
import os
import random
from importlib import import_module
from importlib.util import find_spec

import torch

from asyncckpt.lifecycle import living

logger = logging.getLogger("asyncckpt")


def set_seed(seed: int | None, *, deterministic: bool = True) -> None:
    """Seed python, numpy where it is installed, and torch on every device; None does nothing.

    With `deterministic`, cudnn is told to use no algorithm that differs from call to call, and not to try which is
    fastest. Processes that are started later hash text alike (``PYTHONHASHSEED``). While a checkpointer is open that
    has restored a state, it does nothing but warn: the random state of the checkpoint would be lost.
    """
    if seed is None:
        return
    if living.has_restored():
        logger.warning(
            "set_seed(%d) comes after a checkpoint's random state was restored, and is left out: call it before",
            seed,
        )
        return
    random.seed(seed)
    torch.manual_seed(seed)
    if find_spec("numpy") is not None:
        import_module("numpy").random.seed(seed % 2**32)
    os.environ["PYTHONHASHSEED"] = str(seed % 2**32)
    if deterministic:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
