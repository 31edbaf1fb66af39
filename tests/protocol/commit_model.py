"""The commit protocol as a model: how requests interleave, what a restart does, and when that is wrong.

Modelled are storage requests, each atomic: one that takes long is one whose process waits just before it. A
crash is a process that is never scheduled again, a zombie one that is scheduled late; both need no mark. Not
modelled: pins, requests, ranks, power loss, rollback, tiers, closing, a reader's own requests (it sees the store at one
instant), and saves that fail other than by a fence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Self, TypeAlias

from .explorer import Broken
from .invariants import (
    Catalog,
    durable_stays,
    latest_never_goes_back,
    listed_loads,
    no_zombie_is_visible,
    nothing_unreachable_stays,
    sweep_spares_live_saves,
)
from .vocabulary import Bounds, Move, Name, Pack, Process, Record, Rules, Sent, State, Store, Version

Moves: TypeAlias = Iterator[Move]

_OPEN_REQUESTS = 60
"""More than any open and sweep needs here: one that goes on longer is stuck."""


class CommitModel(ABC):
    """The protocol within `bounds`, with `rules` in force. A model for the explorer.

    Each method whose name a process can be ``at`` makes exactly one storage request and yields its possible
    outcomes. What a writer computes without asking the store happens together with the reply that it computes
    from: nobody can see the difference.
    """

    def __init__(self, bounds: Bounds | None = None, rules: Rules | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.rules = rules or Rules()
        self._catalogs: dict[Store, Catalog] = {}
        self._restarts: dict[Store, Store | None] = {}
        self._judged: dict[tuple[Store, frozenset[Version]], tuple[Broken, ...]] = {}

    @abstractmethod
    def name_of(self, inc: int, slot: int, writer: str) -> Name:
        """The name of a record."""

    @abstractmethod
    def head_of(self, store: Store) -> Record | None:
        """The head, as a reader finds it."""

    @abstractmethod
    def start(self, me: Process, store: Store) -> Moves:
        """The first request of an open."""

    @abstractmethod
    def delete(self, me: Process, store: Store) -> Moves:
        """One of the deletions that `me` has decided on."""

    def idle(self, me: Process, store: Store) -> Moves:
        """Nothing more to do, except what is to be deleted still."""
        return iter(())

    # -- every interleaving ---------------------------------------------------------------------

    def initial(self) -> State:
        """A checkpoint is there, of a writer long gone; every process is about to open."""
        name, version, pack = self.name_of(0, 1, "0"), Version(0, 1, "0"), Pack(0, "0", 1)
        record = Record(name, 0, "0", frozenset({name}), version, 2, version, frozenset({pack}))
        store = self.first_store(Store(frozenset({record}), frozenset({pack})))
        prunes = self.bounds.prune
        first, *others = (Process("ABC"[i], saves=s, prunes=prunes) for i, s in enumerate(self.bounds.saves))
        if self.bounds.holder:
            first, store = self._alone(first, store) or (first, store)
        return State(store, (first, *others), frozenset({version}), "none yet" if self.bounds.duplicate else "spent")

    def first_store(self, store: Store) -> Store:
        """What a mode adds to the store that every process finds."""
        return store

    def successors(self, state: State) -> Iterable[tuple[object, State]]:
        """Every next request of every process, and the arrival of a delayed duplicate."""
        waiting = set()
        for index, process in enumerate(state.processes):
            if process.at == "start":
                if process.saves in waiting:
                    continue  # writers that will do the same are alike: let them start in one order
                waiting.add(process.saves)
            for move in self._moves(process, state.store):
                yield from self._outcomes(state, index, move)
        if not isinstance(state.delayed, str):
            store = self.deliver(state.store, state.delayed)
            yield f"network: a duplicate of {state.delayed} arrives", state._replace(store=store, delayed="spent")

    def _moves(self, me: Process, store: Store) -> Moves:
        if not me.doomed or self.bounds.background:
            step: Callable[[Process, Store], Moves] = getattr(self, me.at)
            yield from step(me, store)
        if me.doomed:
            yield from self.delete(me, store)

    def _outcomes(self, state: State, index: int, move: Move) -> Iterator[tuple[object, State]]:
        processes = (*state.processes[:index], move.process, *state.processes[index + 1 :])
        reported = state.reported
        if move.durable is not None:
            reported = self._newest(reported | {move.durable})
        yield move, State(move.store, processes, reported, state.delayed)
        if move.sent is not None and state.delayed == "none yet":
            yield move, State(move.store, processes, reported, move.sent)

    def _newest(self, versions: frozenset[Version]) -> frozenset[Version]:
        keep = self.bounds.sure
        return frozenset(v for v in versions if sum(other.newer_than(v) for other in versions) < keep)

    def deliver(self, store: Store, sent: Sent) -> Store:
        """The store after a PUT of `sent`; unchanged if the store refuses it."""
        return store.put(sent)

    # -- invariants -----------------------------------------------------------------------------

    def catalog(self, store: Store) -> Catalog:
        """Rule 3: what a reader sees."""
        found = self._catalogs.get(store)
        if found is None:
            found = self._catalogs[store] = self._read_catalog(store)
        return found

    def _read_catalog(self, store: Store) -> Catalog:
        head = self.head_of(store)
        if not self.rules.catalog_is_live_set:
            return Catalog(head, frozenset(r for r in store.records if r.version is not None))
        if head is None:
            return Catalog(None, frozenset())
        listed = frozenset(record for record in store.records if record.name in head.live)
        return Catalog(head, listed, tuple(map(str, head.live - {record.name for record in listed})))

    def broken_in(self, state: State) -> Iterable[Broken]:
        """I1 and I2 now; I1, I2, I3 and I5 after a restart at this moment with every other process dead."""
        key = (state.store, state.reported)
        if key not in self._judged:
            self._judged[key] = tuple(self._judge(state))
        return self._judged[key]

    def _judge(self, state: State) -> Iterator[Broken]:
        now, keep = self.catalog(state.store), self.bounds.sure
        yield from listed_loads(now, state.store, "now")
        yield from durable_stays(state.reported, now, keep, "now")
        store = self.restarted(state.store)
        if store is None:
            yield Broken("I1", "a restart cannot open the run")
            return
        then = self.catalog(store)
        yield from listed_loads(then, store, "after a restart")
        yield from durable_stays(state.reported, then, keep, "after a restart")
        yield from latest_never_goes_back(now, then, "by a restart")
        yield from nothing_unreachable_stays(then, store)

    def broken_by(self, before: State, after: State) -> Iterable[Broken]:
        """I3, I4 and I6, for a step that changed the store."""
        if before.store is after.store:
            return
        old, new = self.catalog(before.store), self.catalog(after.store)
        if old != new:
            moved = zip(before.processes, after.processes, strict=True)
            actor = next((was for was, now in moved if was is not now), None)
            yield from latest_never_goes_back(old, new, "in one step")
            yield from no_zombie_is_visible(old, new, actor)
        yield from sweep_spares_live_saves(before, after, old.head)

    def restarted(self, store: Store) -> Store | None:
        """The store after a new process alone has opened and swept; None if it cannot."""
        if store not in self._restarts:
            self._restarts[store] = self._restart(store)
        return self._restarts[store]

    def _restart(self, store: Store) -> Store | None:
        opened = self._alone(Process("R", saves=1), store)
        return opened[1] if opened else None

    def _alone(self, me: Process, store: Store) -> tuple[Process, Store] | None:
        """Let `me` open and sweep, up to its first save, while nobody else does anything; None if it cannot."""
        for _ in range(_OPEN_REQUESTS):
            if me.at == "put_pack" and not me.doomed:
                return me, store
            move = next(self._undisturbed._moves(me, store), None)
            if move is None:
                return None
            me, store = move.process, move.store
        return None

    @cached_property
    def _undisturbed(self) -> Self:
        return type(self)(replace(self.bounds, background=False, lost_replies=False, stale_list=False), self.rules)
