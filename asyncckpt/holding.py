"""Holding: signals that ``asyncckpt run --hold`` has blocked in its command, until somebody there handles them.

What is blocked waits with the kernel, also where it was sent to every process of a job: a training that has not come so
far as to handle it neither dies of it nor misses it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Mapping

HELD = "ASYNCCKPT_HELD_SIGNALS"
"""The environment variable by which the command knows of it."""


def holding(names: Collection[str]) -> Mapping[str, str]:
    """What says so of these signals to a command that is started with them blocked."""
    return {HELD: ",".join(names)}


def held(environment: Mapping[str, str] = os.environ) -> Collection[int]:
    """Their numbers."""
    names = environment.get(HELD, "").split(",")
    return {signal.Signals[name] for name in names if name in signal.Signals.__members__}


def let_in(numbers: Collection[int]) -> None:
    """Those of `numbers` that were held back, handled by now, come."""
    if sys.platform != "win32" and (known := {*numbers} & {*held()}):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, known)
