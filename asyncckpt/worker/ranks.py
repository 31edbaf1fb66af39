"""Ranks: what the processes of one training job tell each other about a save, off the training thread.

Only rank 0 opens the run. It announces each attempt (or that there will be none) and afterwards the verdict;
the others write their shard into the announced folder and report through the store, so that the commit needs
no trainer. Messages are small JSON objects.

What is said goes through the key-value store of the process group, which may die with any trainer. Where ranks have
worker processes, these then need nothing but the storage: rank 0's finds the reports there, and the others find there
what rank 0 has written for a save, since the name of that folder is made from what all of them know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol

from asyncckpt.worker.presence import Presence

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

    @property
    def arguments(self) -> Mapping[str, str]:
        """What this rank's checkpointer was given, as all ranks must have been."""
        ...

    @property
    def session(self) -> str | None:
        """A name that no other life of any training has; None as long as rank 0 has not told it. Raises
        `ConnectionError`.
        """
        ...

    @property
    def is_alone(self) -> bool:
        """Whether this is a worker process whose trainer is dead: nothing can be heard or said any more."""
        ...

    def presence(self, rank: int) -> Presence | None:
        """Where `rank` has a worker process that outlives it; None if it has none, or has not said so, or is cut off.

        What was once heard is known for good.
        """
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
    arguments: Mapping[str, str] = MappingProxyType({})
    session: str | None = None
    is_alone = False

    def presence(self, rank: int) -> Presence | None:
        """Nobody else is there."""
        return None

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


def landed_key(ordinal: int) -> str:
    """Where rank 0 says that the local tier has save number `ordinal`, with every rank's part."""
    return f"landed/{ordinal}"


def trouble_key(ordinal: int, rank: int) -> str:
    """Where a rank says that it cannot do its part of save number `ordinal`, or of the attempt at it that it names."""
    return f"trouble/{ordinal}/{rank}"


def held_key(rank: int) -> str:
    """Where a rank says whether its local disk hangs, and is asked for nothing."""
    return f"held/{rank}"


def hello_key(rank: int) -> str:
    """Where a rank says what its checkpointer was made with."""
    return f"hello/{rank}"


def pulse_key(rank: int) -> str:
    """Where a rank says, again and again, what it is at work on."""
    return f"pulse/{rank}"


def worker_key(rank: int) -> str:
    """Where a rank says what goes on when it is dead."""
    return f"worker/{rank}"


def memory_key(rank: int) -> str:
    """Where a rank says how much memory it stages in, and which limits hold for it."""
    return f"memory/{rank}"


def job_id(session: str, ordinal: int) -> str:
    """The id that rank 0's job has at save number `ordinal`: every rank knows by it what rank 0 wrote for that save."""
    return f"{session}/{ordinal}"


def left_key(rank: int) -> str:
    """Where a rank says that it listens and speaks no more."""
    return f"left/{rank}"
