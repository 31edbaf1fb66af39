"""Counts: the numbers by which ranks know what each other speaks of. Each rank counts by itself, and all alike."""

from __future__ import annotations

from dataclasses import dataclass

GAP = 1_000_000
"""Left free where the ranks agree anew: more than one of them can have counted alone, so that no number comes twice."""


@dataclass(slots=True)
class Counts:
    """How many saves were begun, and how many decisions were asked for, by one checkpointer."""

    saves: int = 0
    decisions: int = 0

    def begin_anew(self) -> None:
        """Rank 0, at a resume: what a call that failed on one rank alone has shifted is left behind."""
        self.saves += GAP
        self.decisions += GAP

    def follow(self, saves: int, decisions: int) -> None:
        """Every other rank: count on from rank 0's numbers."""
        self.saves, self.decisions = saves, decisions
