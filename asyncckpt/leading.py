"""Leading: which of several ranks speaks for all of them, before there is a process group, in it, and after it."""

from __future__ import annotations

import os
import sys

_known = [0]
"""The rank that this process had in its process group; who asks may do so after that is gone."""


def rank() -> int:
    """This process's rank: of the process group, or as its launcher says; 0 where it is alone."""
    torch = sys.modules.get("torch.distributed")
    if torch is not None and torch.is_available() and torch.is_initialized():
        _known[0] = torch.get_rank()
    elif (said := os.environ.get("RANK", "")).isdecimal():
        return int(said)
    return _known[0]


def leads() -> bool:
    """Whether this process speaks for all: rank 0 does."""
    return rank() == 0
