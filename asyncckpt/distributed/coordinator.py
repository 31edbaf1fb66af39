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
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from asyncckpt.distributed.line import ANSWER, Line
from asyncckpt.distributed.session import Session, read
from asyncckpt.worker import ranks
from asyncckpt.worker.others import Others
from asyncckpt.worker.pulse import Pulse
from asyncckpt.worker.ranks import Ranks, SingleRank, hello_key, left_key, pulse_key

logger = logging.getLogger("asyncckpt")

KEPT = 10_000
"""Keys of each kind that stay in the store: far more than saves that one rank can be ahead of another."""

FAREWELL = 10.0
"""Seconds for which rank 0 waits for the others to leave before it does."""

_LOOK = 0.02
_FIRST_GREETING = 0.001
_SLOWEST_GREETING = 0.5
_rounds = itertools.count()


class StoreRanks:
    """The ranks of a ``torch.distributed`` job, for one checkpointer that was made with `arguments`."""

    def __init__(self, store: Store, rank: int, world: int, deadline: float, arguments: Mapping[str, str]) -> None:
        self.rank = rank
        self.world = world
        self.deadline = deadline
        self._store = store
        self.arguments = dict(arguments)
        self.is_alone = False
        self._others = Others(rank, arguments, self.peek)
        self.check_alike, self.presence = self._others.check_alike, self._others.presence
        self._line = Line()
        self._session = Session(store, rank, world)  # this and what follows: on the line's thread alone
        self._unsent: list[tuple[str, str]] = []
        self._published: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._pulse = Pulse(self._beat)
        self.begin, self.end = self._pulse.begin, self._pulse.end
        self._has_left = threading.Event()
        self._line.post(self._session.join, "that this one is there")
        self.tell(hello_key(rank), self.arguments)
        threading.Thread(target=self._meet, name="asyncckpt-meeting", daemon=True).start()

    # -- words ---------------------------------------------------------------------------------------------

    def publish(self, key: str, value: dict[str, Any]) -> None:
        """Write `key`; drops the oldest key of its kind once there are many. Raises `ConnectionError`."""
        text = json.dumps(value)
        self._line.ask(lambda: self._write(key, text))

    def tell(self, key: str, value: dict[str, Any]) -> None:
        """`publish` without waiting, for what must not fail the one who says it."""
        text = json.dumps(value)
        self._line.post(lambda: self._write(key, text), key)

    def peek(self, key: str) -> dict[str, Any] | None:
        """What `key` holds now, or None; raises `ConnectionError`."""
        return self._line.ask(lambda: self._read(key))

    def _write(self, key: str, text: str) -> None:
        self._unsent.append((key, text))
        self._flush()

    def _flush(self) -> str | None:
        """Say what could not be said before this rank knew the session's name; returns that name."""
        name = self._session.name()
        while name is not None and self._unsent:
            key, text = self._unsent.pop(0)
            self._store.set(f"{name}/{key}", text)
            if (old := self._note(key)) is not None:
                self._store.delete_key(f"{name}/{old}")
        return name

    def _read(self, key: str) -> dict[str, Any] | None:
        name = self._flush()
        return None if name is None else read(self._store, f"{name}/{key}")

    def _note(self, key: str) -> str | None:
        kind = self._published[key.partition("/")[0]]
        kind.pop(key, None)
        kind[key] = None
        if len(kind) <= KEPT:
            return None
        oldest = next(iter(kind))
        del kind[oldest]
        return oldest

    # -- who is there --------------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Until every rank knows the session, whatever else they do or do not do."""
        pause = _FIRST_GREETING
        while not self._has_left.wait(pause):
            try:
                if self._line.ask(self._has_met):
                    return
            except ConnectionError:  # it may answer again; until then nobody hears anything
                pause = _SLOWEST_GREETING
            pause = min(1.5 * pause, _SLOWEST_GREETING)

    def _has_met(self) -> bool:
        return self._session.greet() if self.rank == 0 else self._flush() is not None

    @property
    def session(self) -> str | None:
        """See `Ranks.session`; on rank 0, who has made it up, without asking."""
        return self._session.known or self._line.ask(self._flush)

    def _beat(self, count: int, tasks: Collection[str]) -> None:
        self.tell(pulse_key(self.rank), {"beat": count, "tasks": list(tasks)})

    def part(self, timeout: float) -> None:
        """Leave: rank 0 last, since the store may live in its process and the others still listen."""
        end = time.monotonic() + min(FAREWELL, timeout)
        self._pulse.stop()
        self._line.post(self._leave, "that this one has left")
        try:
            while staying := self._line.ask(self._staying):
                if time.monotonic() > end:
                    logger.warning("not every rank has closed its checkpointer: %s", staying)
                    break
                time.sleep(_LOOK)
            else:
                self._line.ask(lambda: self._clear(end))
        except ConnectionError as error:
            logger.warning("the other ranks could not be seen closing their checkpointers: %s", error)
        self._has_left.set()
        self._line.close()

    def _staying(self) -> list[int]:
        """Whom this rank has to wait for: rank 0 for all others, they for its welcome if they have something to say."""
        self._flush()
        if self.rank != 0:
            return [0] if self._unsent else []
        return [rank for rank in range(1, self.world) if self._read(left_key(rank)) is None]

    def _leave(self) -> None:
        """Say that this rank has left, and what it has said: rank 0, who leaves last, takes that out of the store."""
        said = list(itertools.chain.from_iterable(self._published.values()))
        self._write(left_key(self.rank), json.dumps({"said": said}))

    def _clear(self, end: float) -> None:
        """Nobody listens any more: what was said need not stay for as long as the store does."""
        if self.rank == 0:
            for key in self._said():
                if time.monotonic() > end:
                    return
                self._store.delete_key(key)

    def _said(self) -> Iterator[str]:
        """The keys of all ranks."""
        name = self._session.name()
        for rank in range(1, self.world):
            left = self._read(left_key(rank))
            said = left["said"] if left is not None else []
            yield from (f"{name}/{key}" for key in (*said, left_key(rank)))
            yield from self._session.keys(rank)
        yield from (f"{name}/{key}" for key in list(itertools.chain.from_iterable(self._published.values())))


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
    if dist.is_initialized():
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
        own: Store = store.clone() if hasattr(store, "clone") else _connected(store)
    except RuntimeError as error:  # a kind of store that has one connection
        logger.warning("the process group's key-value store is shared with torch, and may wait for it: %s", error)
        return cast(Store, store)
    own.set_timeout(timedelta(seconds=ANSWER))
    return own


def _connected(store: Any) -> Store:
    """What ``clone`` is for torch before 2.8, but for prefixes, which it does not tell: sessions tell starts apart."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if not isinstance(store, TCPStore):
        raise RuntimeError(f"{type(store).__name__} has one connection")
    return TCPStore(store.host, store.port, is_master=False, timeout=timedelta(seconds=ANSWER), wait_for_workers=False)


def refuse_late_group(known: Ranks) -> None:
    """Raise `RuntimeError` if a process group came after the checkpointer: every rank would take the run for itself."""
    if known.world == 1 and dist.is_initialized() and dist.get_world_size() > 1:
        raise RuntimeError(
            "torch.distributed was initialised after AsyncCheckpointer(...): make the checkpointer after "
            "init_process_group(), so that the ranks save together"
        )
