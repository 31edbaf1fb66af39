"""Coordinator: ranks that agree through the process group's key-value store, never through a collective.

A collective off the training thread may meet the training's own in another order on another rank, which hangs
all of them. The store knows no order.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from asyncckpt.errors import RanksDiffer
from asyncckpt.worker import ranks
from asyncckpt.worker.pulse import Pulse
from asyncckpt.worker.ranks import Ranks, SingleRank, hello_key, left_key, pulse_key

logger = logging.getLogger("asyncckpt")

KEPT = 10_000
"""Keys of each kind that stay in the store: far more than saves that one rank can be ahead of another."""

FAREWELL = 10.0
"""Seconds for which rank 0 waits for the others to leave before it does."""

ANSWER = 60.0
"""Seconds for the store to answer a request; torch's own limit is that of a collective."""

_LOOK = 0.02
_NOTHING = "?"
"""What no key holds: everything published is a JSON object."""
_rounds = itertools.count()


class StoreRanks:
    """The ranks of a ``torch.distributed`` job, for one checkpointer that was made with `arguments`."""

    def __init__(self, store: Store, rank: int, world: int, deadline: float, arguments: Mapping[str, str]) -> None:
        self.rank = rank
        self.world = world
        self.deadline = deadline
        self._store = store
        self._arguments = dict(arguments)
        self._alike = {rank}
        self._lock = threading.Lock()
        self._published: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._pulse = Pulse(self._beat)
        self.begin, self.end = self._pulse.begin, self._pulse.end
        ranks.tell(self, hello_key(rank), self._arguments)

    def publish(self, key: str, value: dict[str, Any]) -> None:
        """Write `key`; drops the oldest key of its kind once there are many. Raises `ConnectionError`."""
        with _translated():
            self._store.set(key, json.dumps(value))
            if (old := self._note(key)) is not None:
                self._store.delete_key(old)

    def _note(self, key: str) -> str | None:
        with self._lock:
            kind = self._published[key.partition("/")[0]]
            kind.pop(key, None)
            kind[key] = None
            if len(kind) <= KEPT:
                return None
            oldest = next(iter(kind))
            del kind[oldest]
            return oldest

    def peek(self, key: str) -> dict[str, Any] | None:
        """What `key` holds now, or None; raises `ConnectionError`.

        By one request that cannot block: ``get`` waits for a key that is not there, or not any more.
        """
        with _translated():
            found = self._store.compare_set(key, _NOTHING, _NOTHING).decode()
        value: dict[str, Any] | None = None if found == _NOTHING else json.loads(found)
        return value

    def check_alike(self, rank: int) -> None:
        """Raise `RanksDiffer` if `rank` has said that it was given other arguments than this one."""
        if rank in self._alike or (theirs := self.peek(hello_key(rank))) is None:
            return
        if theirs != self._arguments:
            (first, one), (second, other) = sorted([(self.rank, self._arguments), (rank, theirs)], key=lambda it: it[0])
            raise RanksDiffer(
                f"the ranks of this training were given different arguments: {_differences(one, other)} (on rank "
                f"{first} and rank {second}): give AsyncCheckpointer the same on every rank, and make several of them "
                "in the same order"
            )
        self._alike.add(rank)

    def _beat(self, count: int, tasks: Collection[str]) -> None:
        ranks.tell(self, pulse_key(self.rank), {"beat": count, "tasks": list(tasks)})

    def part(self, timeout: float) -> None:
        """Leave: rank 0 last, since the store may live in its process and the others still listen."""
        end = time.monotonic() + min(FAREWELL, timeout)
        self._pulse.stop()
        ranks.tell(self, left_key(self.rank), {})
        if self.rank == 0:
            try:
                while staying := [rank for rank in range(1, self.world) if self.peek(left_key(rank)) is None]:
                    if time.monotonic() > end:
                        logger.warning("not every rank has closed its checkpointer: %s", staying)
                        return
                    time.sleep(_LOOK)
                self._clear()
            except ConnectionError as error:
                logger.warning("the other ranks could not be seen closing their checkpointers: %s", error)

    def _clear(self) -> None:
        """Nobody listens any more: what rank 0 said need not stay for as long as the store does."""
        with _translated():
            for key in itertools.chain.from_iterable(self._published.values()):
                self._store.delete_key(key)


def _differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return "; ".join(f"{name}: {one.get(name)} and {other.get(name)}" for name in names)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's DistError is one, and so is what its sockets raise
        raise ConnectionError(f"the process group's key-value store does not answer ({error})") from error


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many ranks this process is."""

    rank: int
    world: int

    def ranks(self, arguments: Mapping[str, str]) -> Ranks:
        """The ranks of one checkpointer, that was given `arguments`: where they differ, `RanksDiffer` says so.

        Each call is for the next checkpointer. They are made in the same order on all ranks: that count tells their
        keys apart, so that one that could not be made must not be counted.
        """
        if self.world == 1:
            return SingleRank()
        store: Any = dist.distributed_c10d._get_default_store()
        # Who waits for rank 0's decision waits as long as it would in a collective.
        deadline = max(ranks.DEADLINE, store.timeout.total_seconds())
        own = PrefixStore(f"asyncckpt/{next(_rounds)}", _own_client(store))
        return StoreRanks(own, self.rank, self.world, deadline, arguments)


def place() -> Place:
    """The place in the default process group, or of a process that is alone.

    Raises `RuntimeError` if the environment announces several ranks but no process group is there to agree by.
    """
    if dist.is_available() and dist.is_initialized():
        return Place(dist.get_rank(), dist.get_world_size())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            "WORLD_SIZE says that this is one of several ranks: call torch.distributed.init_process_group() "
            "before AsyncCheckpointer(...), so that the ranks can agree on what to save"
        )
    return Place(0, 1)


def _own_client(store: Any) -> Store:
    """A connection of our own: torch's is locked while any thread of the process waits in it, a collective's too."""
    try:
        own: Store = store.clone()
    except (AttributeError, RuntimeError) as error:  # an older torch, or a kind of store that has one connection
        logger.warning("the process group's key-value store is shared with torch, and may wait for it: %s", error)
        return cast(Store, store)
    own.set_timeout(timedelta(seconds=ANSWER))
    return own


def refuse_late_group(known: Ranks) -> None:
    """Raise `RuntimeError` if a process group came after the checkpointer: every rank would take the run for itself."""
    if known.world == 1 and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise RuntimeError(
            "torch.distributed was initialised after AsyncCheckpointer(...): make the checkpointer after "
            "init_process_group(), so that the ranks save together"
        )
