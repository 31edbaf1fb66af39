"""Cores: which of them a worker process keeps to, so that training has its own, where there are enough for both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from pathlib import Path

ENOUGH = 2
"""Logical cores that a worker needs to be kept off others: it digests on one, and writes on another."""


def kept_to(
    allowed: Set[int], main: Set[int], computing: int, siblings: Mapping[int, Collection[int]]
) -> frozenset[int]:
    """The logical cores for a worker of a training that may use `allowed` ones, and its main thread those of `main`.

    A main thread that is bound keeps what it is bound to. One that is not may run anywhere: as many whole cores (with
    their `siblings`) as `computing` threads of training take are left to it, and the worker has the others, if those
    are `ENOUGH`. Then the system finds a core without a worker for each of those threads; where there are fewer, a
    worker that is held to few of them would only take longer, and its priority has to do.
    """
    if rest := frozenset(allowed - main):
        return rest
    whole = sorted({frozenset({core, *siblings.get(core, ())} & allowed) for core in allowed}, key=min)
    rest = frozenset[int]().union(*whole[computing:])
    return rest if len(rest) >= ENOUGH else frozenset(allowed)


def siblings_in(system: Path, cores: Collection[int]) -> dict[int, frozenset[int]]:
    """The logical cores that are one with each of `cores`, by ``/sys/devices/system/cpu``, where that says so."""
    found: dict[int, frozenset[int]] = {}
    for core in cores:
        try:
            found[core] = parsed((system / f"cpu{core}/topology/thread_siblings_list").read_text())
        except (OSError, ValueError):
            continue
    return found


def parsed(text: str) -> frozenset[int]:
    """The numbers of a list as the kernel writes it: ``0-3,8``."""
    parts = [part.partition("-") for part in text.strip().split(",") if part]
    return frozenset(number for first, _, last in parts for number in range(int(first), int(last or first) + 1))


def shown(cores: Collection[int]) -> str:
    """The same list of `cores`."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
