"""Others: what is known for good of the other ranks, once they have said it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncckpt.errors import RanksDiffer
from asyncckpt.worker import presence
from asyncckpt.worker.presence import Presence
from asyncckpt.worker.ranks import hello_key, worker_key


class Others:
    """Those beside `rank`, whose checkpointer was made with `arguments`; `peek` is `Ranks.peek`."""

    def __init__(self, rank: int, arguments: Mapping[str, str], peek: Callable[[str], dict[str, Any] | None]) -> None:
        self._rank = rank
        self._arguments = dict(arguments)
        self._peek = peek
        self._alike = {rank}
        self._presences: dict[int, Presence | None] = {}

    def check_alike(self, rank: int) -> None:
        """See `Ranks.check_alike`."""
        if rank in self._alike or (theirs := self._peek(hello_key(rank))) is None:
            return
        if theirs != self._arguments:
            (first, one), (second, other) = sorted(
                [(self._rank, self._arguments), (rank, theirs)], key=lambda it: it[0]
            )
            raise RanksDiffer(
                f"the ranks of this training were given different arguments: {_differences(one, other)} (on rank "
                f"{first} and rank {second}): give Run.open() and AsyncCheckpointer the same on every rank, and make "
                "several of them in the same order"
            )
        self._alike.add(rank)

    def presence(self, rank: int) -> Presence | None:
        """See `Ranks.presence`."""
        return self._presences[rank] if self.has_told(rank) else None

    def has_told(self, rank: int) -> bool:
        """Whether `rank` has said whether it has a worker process."""
        if rank not in self._presences:
            try:
                said = self._peek(worker_key(rank))
            except ConnectionError:
                return False
            if said is None:
                return False
            self._presences[rank] = presence.heard(said)
        return True


def _differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return "; ".join(f"{name}: {one.get(name)} and {other.get(name)}" for name in names)
