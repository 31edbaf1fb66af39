"""Follower: whoever has to know what is listed, and will not look at all of it each time."""

from __future__ import annotations

from typing import Protocol

from asyncckpt.format.record import Checkpoint


class Follower(Protocol):
    """Is told of each checkpoint that comes, and of each that goes; of none twice."""

    def add(self, checkpoint: Checkpoint, /) -> None:
        """`checkpoint` comes."""

    def remove(self, checkpoint: Checkpoint, /) -> None:
        """`checkpoint`, which has come before, goes."""
