"""Ranks: what the processes of one training job tell each other about a save, off the training thread.

Only rank 0 opens the run. It announces each attempt (or that there will be none) and afterwards the verdict;
the others write their shard into the announced folder and report through the store, so that the commit needs
no trainer. Messages are small JSON objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

DEADLINE = 600.0
"""Seconds that a rank waits for another one that gives no sign of being at work on it."""


class Ranks(Protocol):
    """A key-value store shared by the ranks of one restart round; every method may be called from any thread."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def deadline(self) -> float:
        """Seconds to wait for another rank that gives no sign of being at work."""
        ...

    def publish(self, key: str, value: dict[str, Any]) -> None:
        """Write `key`; of each kind of key only the newest thousands are kept. Raises `ConnectionError`."""
        ...

    def tell(self, key: str, value: dict[str, Any]) -> None:
        """`publish` without waiting, for what must not fail the one who says it: those who wait have a deadline."""
        ...

    def peek(self, key: str) -> dict[str, Any] | None:
        """What `key` holds now, or None; raises `ConnectionError`."""
        ...

    def check_alike(self, rank: int) -> None:
        """Raise `RanksDiffer` if `rank` is known to have been given other arguments; raises `ConnectionError`."""
        ...

    def begin(self, task: str) -> None:
        """Say from now on, again and again, that this rank is at work on `task`."""
        ...

    def end(self, task: str) -> None:
        """This rank is no more at work on `task`."""
        ...

    def part(self, timeout: float) -> None:
        """Leave for good; returns once nobody needs this process for what was published, or after `timeout` seconds."""
        ...


class SingleRank:
    """A job of one process: nobody to tell."""

    rank = 0
    world = 1
    deadline = DEADLINE

    def publish(self, key: str, value: dict[str, Any]) -> None:
        """Nobody listens."""

    def tell(self, key: str, value: dict[str, Any]) -> None:
        """Nobody listens."""

    def peek(self, key: str) -> dict[str, Any] | None:
        """Nobody spoke."""
        return None

    def check_alike(self, rank: int) -> None:
        """Nobody differs."""

    def begin(self, task: str) -> None:
        """Nobody waits."""

    def end(self, task: str) -> None:
        """Nobody waits."""

    def part(self, timeout: float) -> None:
        """Nobody stays."""


@contextmanager
def at_work(ranks: Ranks, task: str) -> Iterator[None]:
    """Within it, other ranks see that this one is at work on `task`."""
    ranks.begin(task)
    try:
        yield
    finally:
        ranks.end(task)


STEP_TASK = "step"
"""What a rank is at work on while a save holds its training thread: what it says at its next step may still come."""

DUE_KEY = "due"
"""Where rank 0 says which of the times it was asked a save was due."""


NOTICE_KEY = "notice"
"""Where a rank says that it was told to leave."""


CALL_KEY = "call"
"""Where rank 0 says which ``resume()`` or ``restore()`` it is in."""


def save_task(ordinal: int) -> str:
    """The task of save number `ordinal`."""
    return f"save/{ordinal}"


def attempt_key(ordinal: int) -> str:
    """Where rank 0 announces the attempt at save number `ordinal`, or why there is none."""
    return f"attempt/{ordinal}"


def verdict_key(ordinal: int) -> str:
    """Where rank 0 says what became of save number `ordinal`."""
    return f"verdict/{ordinal}"


def trouble_key(ordinal: int, rank: int) -> str:
    """Where a rank says that it cannot do its part of save number `ordinal`."""
    return f"trouble/{ordinal}/{rank}"


def hello_key(rank: int) -> str:
    """Where a rank says what its checkpointer was made with."""
    return f"hello/{rank}"


def pulse_key(rank: int) -> str:
    """Where a rank says, again and again, what it is at work on."""
    return f"pulse/{rank}"


def left_key(rank: int) -> str:
    """Where a rank says that it listens and speaks no more."""
    return f"left/{rank}"
