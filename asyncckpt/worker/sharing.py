"""Sharing: which part of the memory here is one rank's, where others of its training have to live within the same.

What is free is everybody's, and each would take it. So every rank says which limits hold for it (those of its machine
and its cgroups, which it may share with some and not with others) and how many bytes it stages, and takes of each limit
in proportion to that. In data-parallel training that is nearly everything for rank 0, and little for the others.

Where the launcher says which ranks are here (``LOCAL_WORLD_SIZE``, as ``torchrun`` does), only those are asked. Whoever
has not said anything yet is taken to need as much.

At first a rank knows how much its models and optimizers hold, and not what an object will hand out of which nothing but
its ``state_dict()`` tells. So once the others have measured what they stage, what each may take is worked out anew.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from asyncckpt import allowance
from asyncckpt.allowance import Allowance
from asyncckpt.worker.ranks import Ranks, memory_key

_LEAST = 1 / 64
"""Of what is free, for all ranks together, however little they need: shards of a few kilobytes need not be counted."""


_HARDLY = 0.1
"""Of what there was: so much more or less is not worth a word."""
_LOOKS = 8
"""How often, at most, it is asked whether others have measured what they need: each time at a save."""


class Sharing:
    """Of one rank, which will stage about `estimate` bytes. Not for several threads at once."""

    def __init__(self, ranks: Ranks, estimate: int) -> None:
        self._ranks = ranks
        self._others = [rank for rank in here(ranks.rank, ranks.world, os.environ) if rank != ranks.rank]
        self._need = self._measured = self._looks = 0
        self._limits: Sequence[Allowance] = ()
        self._words: dict[int, Mapping[str, Any]] = {}
        """What the others have said that have measured what they need."""
        self._found: Allowance | None = None
        if self._others:  # what is free is worth saying once there is nothing but staging memory still to come
            self._tell(estimate, [replace(limit, free=0) for limit in allowance.limits()])

    def memory(self, need: int, held: int) -> Allowance | None:
        """What this rank may have of the narrowest limit for snapshots of `need` bytes; `held` it has already.

        None where the system knows no limit. Asks the other ranks: a request to the key-value store for each.
        """
        if not self._others:
            found = allowance.memory()
            return None if found is None else replace(found, free=found.free + held)
        self._need, self._looks = need, _LOOKS
        self._limits = [replace(limit, free=limit.free + held) for limit in allowance.limits()]
        self._measured += 1
        self._tell(need, self._limits)
        self._words.clear()
        self._found = self._part()
        return self._found

    def again(self) -> Allowance | None:
        """The same once it has turned out to be quite another, since others have measured what they need; else None.

        Asks those that had not, a few times.
        """
        if not self._looks or len(self._words) == len(self._others):
            return None
        self._looks -= 1
        found, before = self._part(), self._found
        if found is None or before is None or abs(found.free - before.free) <= _HARDLY * before.free:
            return None
        self._found = found
        return found

    def _part(self) -> Allowance | None:
        words = [self._words.get(rank) or self._heard(rank) for rank in self._others]
        heard = zip(self._others, words, strict=True)
        self._words = {rank: word for rank, word in heard if word is not None and word["measured"]}
        parts = [_part(limit, self._need, words, self._measured) for limit in self._limits]
        return min(parts, key=lambda part: part.free, default=None)

    def _tell(self, need: int, limits: Sequence[Allowance]) -> None:
        said = {"bytes": need, "limits": {limit.source: limit.free for limit in limits}, "measured": self._measured}
        self._ranks.tell(memory_key(self._ranks.rank), said)

    def _heard(self, rank: int) -> Mapping[str, Any] | None:
        try:
            return self._ranks.peek(memory_key(rank))
        except ConnectionError:
            return None


def _part(limit: Allowance, need: int, words: Collection[Mapping[str, Any] | None], measured: int) -> Allowance:
    """This rank's part of `limit`, which it has `measured` so many times.

    Who measures later finds less, since others have taken theirs: what counts is what was free before. But not what
    was free for a state that has grown since.
    """
    sharing = [word for word in words if word is None or limit.source in word["limits"]]
    current = [word for word in sharing if word is not None and word["measured"] >= measured]
    free = max([limit.free, *(word["limits"][limit.source] for word in current)])
    total = need + sum(need if word is None else word["bytes"] for word in sharing)
    part = max(need / max(total, 1), _LEAST / (len(sharing) + 1)) if sharing else 1.0
    return replace(limit, free=int(free * part), part=part, ranks=len(sharing) + 1)


def here(rank: int, world: int, environment: Mapping[str, str]) -> range:
    """The ranks that may be on this machine: as the launcher says, or all."""
    try:
        first = rank - int(environment["LOCAL_RANK"])
        ranks = range(first, first + int(environment["LOCAL_WORLD_SIZE"]))
    except (KeyError, ValueError):
        return range(world)
    is_theirs = environment.get("RANK", str(rank)) == str(rank)  # and not that of a group within a larger job
    return ranks if is_theirs and rank in ranks and first >= 0 and ranks.stop <= world else range(world)
