"""Machine: what a number was measured on, and what else ran there meanwhile."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from types import TracebackType

import torch

from benchmarks.held import cpu_seconds_of

_TICK = os.sysconf("SC_CLK_TCK")
_LOOK = 1.0
_QUIET = 0.2
"""Cores."""


def conditions() -> str:
    """One line: cores, memory, torch, and the load average before anything is measured."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, torch {torch.__version__}; load average {load}\n"


def wait_until_quiet(longest: float) -> None:
    """Return once others use next to nothing of the CPU, or after `longest` seconds."""
    end = time.monotonic() + longest
    while time.monotonic() < end:
        before = _busy()
        time.sleep(_LOOK)
        if _busy() - before < _QUIET * _LOOK:
            return


class Foreign:
    """``with Foreign() as foreign`` around a child process: `cores` is what all others used of the CPU meanwhile.

    The kernel's own threads count as others, so a child that writes through the page cache causes some. What the
    process `server` computes for the child counts as the child's.
    """

    cores = 0.0

    def __init__(self, server: int | None = None) -> None:
        self._server = server

    def __enter__(self) -> Foreign:
        self._began, self._busy, self._own = time.monotonic(), _busy(), self._used()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        others = (_busy() - self._busy) - (self._used() - self._own)
        self.cores = max(0.0, others / (time.monotonic() - self._began))

    def _used(self) -> float:
        return _children() + (cpu_seconds_of(self._server) if self._server is not None else 0.0)


def _busy() -> float:
    """Seconds that the machine's cores have computed: user, nice, system, interrupts."""
    fields = Path("/proc/stat").read_text().split()
    return sum(int(fields[i]) for i in (1, 2, 3, 6, 7)) / _TICK


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
