"""Options: what the command line asks of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """How one benchmark is to be run."""

    quick: bool = False
    """A small state and one round: only to see that it runs."""
    peers: tuple[str, ...] = ()
    """Systems measured beside this project."""
    rounds: int | None = None
    """Turns of each system; None for what the benchmark finds enough."""
    scratch: Path = Path()
    """Folder on the disk to measure."""

    def turns(self, enough: int) -> int:
        """Turns of each system, where `enough` of them are enough."""
        return self.rounds or (1 if self.quick else enough)
