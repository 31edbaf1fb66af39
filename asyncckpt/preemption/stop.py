"""Stop: what all ranks are told to do after the same step, as one of them has worked it out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from asyncckpt.preemption.plan import Plan

RESERVE = 0.2
"""The part of what is left that the process needs to end in order, at most `MOST_RESERVE` seconds."""
MOST_RESERVE = 2.0
LEAST_RESERVE = 0.3
"""But no more than `MOST_PART` of what is left."""
MOST_PART = 0.6
ENDING = 0.25
"""Seconds in which an interpreter ends that has imported torch, and looks for no garbage."""


def usable(seconds: float) -> float:
    """Of the `seconds` until the kill, those in which something can be made durable."""
    needed = max(RESERVE * seconds, min(LEAST_RESERVE, MOST_PART * seconds))
    return max(0.0, seconds - min(needed, MOST_RESERVE))


def closable(seconds: float) -> float:
    """Of the `seconds` until the kill, those after which nobody waits any more: the interpreter has to end, too."""
    reserve = seconds - usable(seconds)
    return seconds - min(reserve, max(reserve / 2, ENDING))


@dataclass(frozen=True, slots=True)
class Stop:
    """Who gave notice (`signum`: by which signal, else 0), the `seconds` until the kill, and the plan."""

    source: str
    signum: int
    seconds: float
    plan: Plan

    def json(self) -> dict[str, Any]:
        """For the other ranks; times are relative, since their clocks are their own."""
        return asdict(self)


def stop_of(said: dict[str, Any]) -> Stop:
    """The inverse of `Stop.json`."""
    return Stop(said["source"], said["signum"], said["seconds"], plan_of(said["plan"]))


def plan_of(said: dict[str, Any]) -> Plan:
    """A plan from its fields, as JSON has them."""
    return Plan(**{**said, **{name: tuple(said[name]) for name in ("leaves_out", "first", "reasons")}})
