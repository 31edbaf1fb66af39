"""Rules: what the value of one field has to be, beyond its type. A rule says what is wrong with a value, or None.

They stand in the types of the schema: ``Annotated[int, at_least(1)]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Rule: TypeAlias = Callable[[Any], str | None]

_TIME = re.compile(r"\d+|\d+:[0-5]?\d|\d+:[0-5]?\d:[0-5]?\d|\d+-\d+(:[0-5]?\d){0,2}|infinite|unlimited", re.IGNORECASE)
_MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)
_GRES = re.compile(r"[\w.\-]+(:[\w.\-]+)?(:\d+[KMGT]?)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def at_least(least: float) -> Rule:
    """A number from `least` on."""
    return lambda value: None if value >= least else f"is {value}; use {least} or more"


def above(bound: float) -> Rule:
    """A finite number greater than `bound`."""
    return lambda value: None if bound < value < math.inf else f"is {value}; use a number above {bound}"


def within(low: float, high: float) -> Rule:
    """A number from `low` to `high`."""
    return lambda value: None if low <= value <= high else f"is {value}; use a number from {low} to {high}"


def below_one(value: float) -> str | None:
    """A share: from 0, and less than all."""
    return None if 0 <= value < 1 else f"is {value}; use a number from 0 to below 1"


def all_below_one(values: Sequence[float]) -> str | None:
    """Several shares."""
    return next((said for value in values if (said := below_one(value))), None)


def one_of(*words: str) -> Rule:
    """One of these words."""
    return lambda value: None if value in words else f"is {value!r}; use one of {', '.join(words)}"


def text(value: str) -> str | None:
    """A line that says something: not empty, and without control characters."""
    if _CONTROL.search(value):
        return f"is {value!r}; it must be one line, without control characters"
    return None if value.strip() else "is empty"


def time_limit(value: str) -> str | None:
    """A time as Slurm reads it."""
    if _TIME.fullmatch(value):
        return None
    return f"is {value!r}; Slurm takes minutes, hours:minutes:seconds or days-hours:minutes:seconds"


def seconds_of(value: str) -> int | None:
    """The seconds of a time as Slurm reads it, up to its next whole minute; None where that is no limit, or no time."""
    if not _TIME.fullmatch(value) or value.isalpha():
        return None
    days, _, rest = value.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    from_the_left = days or len(parts) == 3
    hours, minutes, seconds = [*parts, 0, 0][:3] if from_the_left else [0, *parts, 0][:3]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return math.ceil(total / 60) * 60 or None  # a limit of 0 is none


def memory(value: str) -> str | None:
    """An amount of memory as Slurm reads it."""
    return None if _MEMORY.fullmatch(value) else f"is {value!r}; Slurm takes a whole number with K, M, G or T: 32G"


def resources(value: str) -> str | None:
    """Generic resources as Slurm reads them."""
    if all(_GRES.fullmatch(each) for each in value.split(",")):
        return None
    return f"is {value!r}; Slurm takes name:count or name:type:count, separated by commas: gpu:a100:2"


def options(values: Sequence[str]) -> str | None:
    """Options of sbatch, each with its value in one text."""
    wrong = [value for value in values if not value.startswith("-") or _CONTROL.search(value)]
    return f"has {wrong[0]!r}; each is one option with its value: --account=vision" if wrong else None
