"""Checks: what a doctor says, one line for each thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["ok", "note", "problem"]
"""``note``: slower or weaker than it could be, or not known. ``problem``: something will fail."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and a sentence that a person can act on."""

    name: str
    state: State
    sentence: str

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.state:<8} {self.name:<14} {self.sentence}"

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"name": self.name, "state": self.state, "sentence": self.sentence}


def not_tried(name: str) -> Check:
    """What only writing would tell."""
    return Check(name, "note", "not tried: --read-only")
