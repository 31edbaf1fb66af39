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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from asyncckpt.worker import ranks
from asyncckpt.worker.ranks import Ranks, SingleRank, left_key

logger = logging.getLogger("asyncckpt")

KEPT = 256
"""Keys of each kind that stay in the store; training keeps ranks within a step or two of each other."""

FAREWELL = 10.0
"""Seconds for which rank 0 waits for the others to leave before it does."""

_FIRST_LOOK = 0.0005
_SLOWEST_LOOK = 0.02
_rounds: defaultdict[str, itertools.count[int]] = defaultdict(itertools.count)


class StoreRanks:
    """The ranks of a ``torch.distributed`` job, for one checkpointer."""

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self.rank = rank
        self.world = world
        self.deadline = ranks.DEADLINE
        self._store = store
        self._lock = threading.Lock()
        self._published: defaultdict[str, dict[str, None]] = defaultdict(dict)

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
        """What `key` holds now, or None; raises `ConnectionError`."""
        with _translated():
            if not self._store.check([key]):
                return None
            # Empty: rank 0 has dropped it between the two requests.
            found = self._store.get(key)
            value: dict[str, Any] | None = json.loads(found) if found else None
            return value

    def fetch_any(self, keys: tuple[str, ...], timeout: float) -> dict[str, Any]:
        """Wait for one of `keys`; raises `TimeoutError` or `ConnectionError`.

        Looks again and again, since the store's own ``wait`` locks it for every other thread of the process.
        """
        deadline = time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            for key in keys:
                if (value := self.peek(key)) is not None:
                    return value
            if time.monotonic() > deadline:
                raise TimeoutError(f"no rank wrote {' or '.join(keys)} within {timeout:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _SLOWEST_LOOK)

    def part(self, timeout: float) -> None:
        """Leave: rank 0 last, since the store may live in its process and the others still listen."""
        if self.rank != 0:
            ranks.tell(self, left_key(self.rank), {})
        elif self._published:
            end = time.monotonic() + min(FAREWELL, timeout)
            try:
                for rank in range(1, self.world):
                    self.fetch_any((left_key(rank),), max(0.0, end - time.monotonic()))
            except (TimeoutError, ConnectionError) as error:
                logger.warning("not every rank has closed its checkpointer: %s", error)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's DistError is one, and so is what its sockets raise
        raise ConnectionError(f"the process group's key-value store does not answer ({error})") from error


def ranks_of(root: str) -> Ranks:
    """The ranks that share the training of `root`: those of the default process group, or this process alone.

    Raises `RuntimeError` if the environment announces several ranks but no process group is there to agree by.
    """
    if dist.is_available() and dist.is_initialized():
        if dist.get_world_size() == 1:
            return SingleRank()
        # Checkpointers are made in the same order on all ranks: the count tells their keys apart.
        prefix = f"asyncckpt/{root}/{next(_rounds[root])}"
        return StoreRanks(PrefixStore(prefix, _own_client()), dist.get_rank(), dist.get_world_size())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            "WORLD_SIZE says that this is one of several ranks: call torch.distributed.init_process_group() "
            "before AsyncCheckpointer(...), so that the ranks can agree on what to save"
        )
    return SingleRank()


def _own_client() -> Store:
    """A connection of our own: torch's is locked while any thread of the process waits in it, a collective's too."""
    store: Any = dist.distributed_c10d._get_default_store()
    try:
        own: Store = store.clone()
    except (AttributeError, RuntimeError) as error:  # an older torch, or a kind of store that has one connection
        logger.warning("the process group's key-value store is shared with torch, and may wait for it: %s", error)
        return cast(Store, store)
    return own


def refuse_late_group(known: Ranks) -> None:
    """Raise `RuntimeError` if a process group came after the checkpointer: every rank would take the run for itself."""
    if known.world == 1 and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise RuntimeError(
            "torch.distributed was initialised after AsyncCheckpointer(...): make the checkpointer after "
            "init_process_group(), so that the ranks save together"
        )
