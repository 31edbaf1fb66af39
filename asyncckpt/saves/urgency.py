"""Urgency: what makes a save an emergency, since the process is about to be killed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Urgency:
    """Of one save."""

    deadline: float | None = None
    """When whoever waits for it is let go, by the monotonic clock."""
    memory_by: float | None = None
    """When what is being written gives way where it still keeps the memory for it, by the monotonic clock."""
    leaves_out: tuple[str, ...] = ()
    """The parts of the state that there is no time for."""
    takes_over: bool = False
    """Whether saves that were not begun give way to it."""
    gives_up: bool = False
    """Whether the save that is being written gives way too."""
    local_only: bool = False
    """Whether there is time for the local tier only."""
