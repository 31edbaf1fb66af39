"""Ranks: what the processes of one training job tell each other about a save, off the training thread.

Only rank 0 opens the run. It announces each attempt (or that there will be none) and afterwards the verdict;
the others write their shard into the announced folder and report through the store, so that the commit needs
no trainer. Messages are small JSON objects.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

logger = logging.getLogger("asyncckpt")

DEADLINE = 600.0
"""Seconds that rank 0 waits for the others' reports, and the others for a sign of rank 0."""


class Ranks(Protocol):
    """A key-value store shared by the ranks of one restart round; every method may be called from any thread."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def deadline(self) -> float:
        """Seconds to wait for another rank's part of a save."""
        ...

    def publish(self, key: str, value: dict[str, Any]) -> None:
        """Write `key`; of each kind of key only the newest few hundred are kept. Raises `ConnectionError`."""
        ...

    def fetch_any(self, keys: tuple[str, ...], timeout: float) -> dict[str, Any]:
        """Block until one of `keys` is written and return it.

        Raises `TimeoutError` after `timeout` seconds, and `ConnectionError` if the store is gone.
        """
        ...

    def peek(self, key: str) -> dict[str, Any] | None:
        """What `key` holds now, or None; raises `ConnectionError`."""
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

    def fetch_any(self, keys: tuple[str, ...], timeout: float) -> dict[str, Any]:
        """Nobody speaks."""
        raise TimeoutError(f"no other rank could have written {keys}")

    def peek(self, key: str) -> dict[str, Any] | None:
        """Nobody spoke."""
        return None

    def part(self, timeout: float) -> None:
        """Nobody stays."""


def tell(ranks: Ranks, key: str, value: dict[str, Any]) -> None:
    """Publish what must not fail the one who says it: those who wait for it in vain have a deadline."""
    try:
        ranks.publish(key, value)
    except ConnectionError as error:
        logger.error("the other ranks could not be told %s: %s", key, error)


def due_key(number: int) -> str:
    """Where rank 0 says whether a save is due, the `number`-th time it is asked."""
    return f"due/{number}"


def attempt_key(ordinal: int) -> str:
    """Where rank 0 announces the attempt at save number `ordinal`, or why there is none."""
    return f"attempt/{ordinal}"


def pulse_key(ordinal: int) -> str:
    """Where rank 0 shows that it still has save number `ordinal` in hand."""
    return f"pulse/{ordinal}"


def verdict_key(ordinal: int) -> str:
    """Where rank 0 says what became of save number `ordinal`."""
    return f"verdict/{ordinal}"


def trouble_key(ordinal: int, rank: int) -> str:
    """Where a rank says that it cannot do its part of save number `ordinal`."""
    return f"trouble/{ordinal}/{rank}"


def left_key(rank: int) -> str:
    """Where a rank says that it listens no more."""
    return f"left/{rank}"
