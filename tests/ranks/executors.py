"""Ranks whose saves run in a thread, or in worker processes: what holds for one holds for the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyncckpt.construction import weighing
from asyncckpt.storage import from_url
from asyncckpt.testing.ranks import PRELOADED, run_ranks
from asyncckpt.testing.slow import GatedStorage

PRELOADED += [__name__, "pytest", "tests.executor.conftest", "tests.ranks.looking", "tests.ranks.training"]


class Launcher:
    """`run_ranks`, with the saves of every rank in an `executor`, and the logs of worker processes in `runtime`."""

    def __init__(self, executor: str, runtime: Path) -> None:
        self.executor = executor
        self.runtime = runtime

    def __call__(self, function: Callable[..., Any], world: int, *args: Any, **options: Any) -> list[Any]:
        return run_ranks(_in, world, self.executor, str(self.runtime), function, args, **options)


def _in(executor: str, runtime: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    os.environ["ASYNCCKPT_RUNTIME_DIR"] = runtime
    if executor == "process":
        weighing.BREAK_EVEN = -1  # from how many bytes of state on a process is worth it
    return function(*args)


def gated(root: Path) -> GatedStorage:
    """A store at `root` whose requests this rank can hold and fail, also those of its worker process."""
    if weighing.BREAK_EVEN == -1 and sys.platform == "linux":
        from asyncckpt.testing.shared import SharedGates

        return SharedGates(root)
    return GatedStorage(from_url(root))
