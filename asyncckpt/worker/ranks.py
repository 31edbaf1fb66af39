"""Ranks: what the processes of one training job tell each other about a save, off the training thread.

Only rank 0 opens the run. It announces each attempt (or that there will be none) and afterwards the verdict;
the others write their shard into the announced folder and report through the store, so that the commit needs
no trainer. Messages are small JSON objects under keys that are written once.
"""

from __future__ import annotations

from typing import Any, Protocol

DEADLINE = 600.0
"""Seconds that rank 0 waits for the others' reports, and the others for what rank 0 has to say."""


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
        """Write `key`, once."""
        ...

    def fetch_any(self, keys: tuple[str, ...], timeout: float) -> dict[str, Any]:
        """Block until one of `keys` is written and return it; raises `TimeoutError` after `timeout` seconds."""
        ...

    def peek(self, key: str) -> dict[str, Any] | None:
        """What `key` holds now, or None."""
        ...

    def forget(self, key: str) -> None:
        """Drop a key that every rank has read."""
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

    def forget(self, key: str) -> None:
        """Nothing is kept."""


def attempt_key(ordinal: int) -> str:
    """Where rank 0 announces the attempt at save number `ordinal`, or why there is none."""
    return f"attempt/{ordinal}"


def verdict_key(ordinal: int) -> str:
    """Where rank 0 says what became of save number `ordinal`."""
    return f"verdict/{ordinal}"


def trouble_key(ordinal: int, rank: int) -> str:
    """Where a rank says that it cannot do its part of save number `ordinal`."""
    return f"trouble/{ordinal}/{rank}"
