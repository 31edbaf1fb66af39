"""Pauses: a loop that does nothing but compute in Python, and its longest step."""

from __future__ import annotations

import time
from collections.abc import Callable

_ROUNDS = 12_000
"""Of counting in a step: about a millisecond."""


def longest_step(is_over: Callable[[], bool]) -> float:
    """Seconds of the longest step of those until `is_over`."""
    longest = 0.0
    while not is_over():
        longest = max(longest, step())
    return longest


def step() -> float:
    """Seconds of one step."""
    began = time.perf_counter()
    sum(number % 7 for number in range(_ROUNDS))
    return time.perf_counter() - began
