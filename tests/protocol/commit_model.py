"""What both modes share: saving, retention, deletion, the sweep, the restart, and how requests interleave.

Each method whose name a process can be ``at`` makes exactly one storage request and yields its possible
outcomes. What a writer computes without asking the store happens together with the reply that it computes from:
nobody can see the difference.

Bolder than the protocol: deletions, the sweep's included, go on beside the following saves, however slow. Not
modelled: pins, ranks, power loss, rollback, tiers, closing, a reader's own requests (it sees the store at one
instant), and failed saves other than by a fence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

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
from .vocabulary import (
    Bounds,
    Confirmation,
    Doomed,
    Move,
    Name,
    Pack,
    Process,
    Record,
    Rules,
    Sent,
    State,
    Store,
    Version,
)

Moves: TypeAlias = Iterator[Move]

OPEN_ATTEMPTS = 2
"""How often an open may be overtaken before it gives up (RunContended)."""

_RESTART_STEPS = 60


class CommitModel(ABC):
    """One mode of the protocol, within `bounds`, with `rules` in force. A model for the explorer."""

    def __init__(self, bounds: Bounds | None = None, rules: Rules | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.rules = rules or Rules()
        self._catalogs: dict[Store, Catalog] = {}
        self._restarts: dict[Store, Store | None] = {}
        self._judged: dict[tuple[Store, frozenset[Version]], tuple[Broken, ...]] = {}
        self._steps: dict[str, Callable[[Process, Store], Moves]] = {}

    # -- what the modes differ in ---------------------------------------------------------------

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
    def list_log(self, me: Process, store: Store) -> Moves:
        """LIST the records to find the one to open on."""

    @abstractmethod
    def after_view(self, me: Process) -> Process:
        """The open goes on: `me` has read the head that it opens on and all that it lists."""

    @abstractmethod
    def commit(self, me: Process, store: Store) -> Moves:
        """Write the record of the save whose data is durable."""

    # -- open -----------------------------------------------------------------------------------

    def read_head(self, me: Process, store: Store) -> Moves:
        """Rules 10, 11: GET the newest record of the listing; if it is gone, LIST again."""
        assert me.seen is not None
        head = store.find(me.seen)
        if head is None:
            yield Move("GET (gone)", me.seen, me._replace(at="list_log", seen=None), store)
        else:
            known = frozenset({head} if head.name in head.live else ())
            yield Move("GET", head, self._view(me._replace(record=head, seen=None, live=known)), store)

    def read_live(self, me: Process, store: Store) -> Moves:
        """Rule 3: GET one more of the records that the head lists; if it is gone, so is the head: LIST again."""
        assert me.record is not None
        name = min(me.record.live - {record.name for record in me.live})
        found = store.find(name)
        if found is None:
            yield Move("GET (gone)", name, me._replace(at="list_log", record=None, live=frozenset()), store)
        else:
            yield Move("GET", found, self._view(me._replace(live=me.live | {found})), store)

    def _view(self, me: Process) -> Process:
        assert me.record is not None
        complete = len(me.live) == len(me.record.live)
        return self.after_view(me) if complete else me._replace(at="read_live")

    def open_record(self, me: Process, inc: int) -> Record:
        """Rules 10, 11: the open record carries over what its predecessor lists, its latest and next_seq."""
        assert me.record is not None
        head = me.record
        name = self.name_of(inc, head.name.slot + 1, me.name)
        return Record(name, inc, me.name, head.live, head.latest, head.next_seq)

    def opened(self, me: Process) -> Process:
        """The own open record counts: only now restore, sweep, save."""
        memory = frozenset() if self.rules.live_from_previous else me.live
        return me._replace(record=me.draft, draft=None, at="list_data", memory=memory)

    # -- sweep ----------------------------------------------------------------------------------

    def list_data(self, me: Process, store: Store) -> Moves:
        """Rule 21a: LIST the data; doomed is what is of a lower incarnation and no live record names."""
        named = _packs(me.live)
        limit = me.inc if self.rules.sweep_only_older else 99
        found = sorted(pack for pack in store.data if pack.inc < limit and pack not in named)
        yield Move("LIST data/", None, me._replace(at="list_records", doomed=tuple(found)), store)

    def list_records(self, me: Process, store: Store) -> Moves:
        """Rule 21b: LIST records, claims, confirmations; doomed is what is below own, not live, not the head."""
        assert me.record is not None
        own, live = me.record.name, me.record.live
        doomed: list[Doomed] = sorted(r.name for r in store.records if r.name < own and r.name not in live)
        doomed += sorted(ok for ok in store.confirmations if ok.name < own and ok.name not in live)
        doomed += sorted(claim for claim in store.claims if claim.inc < me.inc)
        me = self._ready(me._replace(doomed=(*me.doomed, *doomed)))
        yield Move("LIST commits/", "to sweep", me, store)

    # -- save -----------------------------------------------------------------------------------

    def put_pack(self, me: Process, store: Store) -> Moves:
        """Rules 2, 13: PUT the data, under a name of its own; then the record may be written."""
        draft = self._draft(me)
        pack = Pack(me.inc, me.name, draft.next_seq - 1)
        me = self._sent(me._replace(draft=draft, at="commit"))
        if self.rules.record_after_data:
            store = self._with_pack(store, pack)
        yield Move("PUT", pack, me, store)

    def _with_pack(self, store: Store, pack: Pack) -> Store:
        others = store.data
        if not self.rules.names_hold_writer:
            others = frozenset(other for other in others if other.seq != pack.seq)
        return store._replace(data=others | {pack})

    def _draft(self, me: Process) -> Record:
        """Rules 4, 5, 19: the record of the next save."""
        assert me.record is not None
        name = self.name_of(me.inc, me.record.name.slot + 1, me.name)
        version = Version(me.inc, me.record.next_seq)
        listed = me.live if self.rules.live_from_previous else me.memory
        kept = sorted(listed, key=_version)[len(listed) + 1 - self.bounds.keep :]
        live = frozenset({name, *(record.name for record in kept)})
        packs = {Pack(me.inc, me.name, version.seq), *self._base(me)}
        return Record(name, me.inc, me.name, live, version, version.seq + 1, version, frozenset(packs))

    def _base(self, me: Process) -> Iterable[Pack]:
        """Rule 5: what an increment names besides its own pack: the own pack of the latest listed checkpoint."""
        listed = me.live if self.rules.base_from_previous else me.memory
        if self.bounds.incremental and listed:
            base = max(listed, key=_version)
            yield Pack(base.inc, base.writer, base.next_seq - 1)

    def _sent(self, me: Process) -> Process:
        return me if self.rules.delete_after_durable else me._replace(doomed=me.doomed + self._dropped(me))

    def durable(self, me: Process) -> Process:
        """Rules 15, 16, 20: the record counts. What it dropped is deleted from now on."""
        assert me.draft is not None
        doomed = me.doomed + self._dropped(me) if self.rules.delete_after_durable else me.doomed
        return self._ready(
            me._replace(
                record=me.draft,
                live=_listed(me),
                draft=None,
                doomed=doomed,
                saves=me.saves - 1,
                memory=me.memory if self.rules.base_from_previous else me.live,
            )
        )

    def _dropped(self, me: Process) -> tuple[Doomed, ...]:
        """Rule 20: packs that no live record names, then records that are neither live nor head."""
        assert me.record is not None
        live = _listed(me)
        packs = _packs(me.live) - _packs(live)
        names = {record.name for record in me.live | {me.record}} - {record.name for record in live}
        return (*sorted(packs), *sorted(names), *self.confirmations(names))

    def confirmations(self, names: Iterable[Name]) -> Iterable[Confirmation]:
        """What goes with the records called `names`."""
        return ()

    def _ready(self, me: Process) -> Process:
        return me._replace(at="put_pack") if me.saves else Process(me.name, "idle", me.inc, doomed=me.doomed)

    def idle(self, me: Process, store: Store) -> Moves:
        """All saves are done; deletions may go on."""
        return iter(())

    def fenced(self, me: Process) -> Process:
        """Rule 17: delete nothing, write nothing, for ever."""
        if self.rules.fenced_deletes_nothing or me.draft is None:
            return Process(me.name, "idle", me.inc)
        return Process(me.name, "idle", me.inc, doomed=(self.own_data(me),))

    def own_data(self, me: Process) -> Pack:
        """The data of the save in progress."""
        assert me.draft is not None
        return Pack(me.inc, me.name, me.draft.next_seq - 1)

    def delete(self, me: Process, store: Store) -> Moves:
        """Rules 20, 21: one DELETE of what was decided; beside all else, in its order, however late."""
        if me.doomed:
            doomed, *rest = me.doomed
            yield Move("DELETE", doomed, me._replace(doomed=tuple(rest)), store.without(doomed))

    # -- every interleaving ---------------------------------------------------------------------

    def initial(self) -> State:
        """A checkpoint is there, of a writer long gone; every process is about to open."""
        name, version, pack = self.name_of(0, 1, "0"), Version(0, 1), Pack(0, "0", 1)
        record = Record(name, 0, "0", frozenset({name}), version, 2, version, frozenset({pack}))
        store = self.first_store(Store(frozenset({record}), frozenset({pack})))
        processes = tuple(Process("ABC"[i], saves=saves) for i, saves in enumerate(self.bounds.saves))
        return State(store, processes, frozenset({version}), "none yet" if self.bounds.duplicate else "spent")

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
            yield (
                f"network: a duplicate of {state.delayed} arrives",
                state._replace(store=store, delayed="spent"),
            )

    def _moves(self, me: Process, store: Store) -> Moves:
        step = self._steps.get(me.at)
        if step is None:
            step = self._steps[me.at] = getattr(self, me.at)
        if not me.doomed or self.bounds.background:
            yield from step(me, store)
        yield from self.delete(me, store)

    def _outcomes(self, state: State, index: int, move: Move) -> Iterator[tuple[object, State]]:
        processes = (*state.processes[:index], move.process, *state.processes[index + 1 :])
        reported = state.reported
        if move.durable is not None:
            reported = frozenset(sorted(reported | {move.durable})[-self.bounds.keep :])
        yield move, State(move.store, processes, reported, state.delayed)
        if move.sent is not None and state.delayed == "none yet":
            yield move, State(move.store, processes, reported, move.sent)

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
        now, keep = self.catalog(state.store), self.bounds.keep
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
        yield from sweep_spares_live_saves(before, after, old.inc)

    def restarted(self, store: Store) -> Store | None:
        """The store after a new process alone has opened and swept; None if it cannot."""
        if store not in self._restarts:
            self._restarts[store] = self._restart(store)
        return self._restarts[store]

    def _restart(self, store: Store) -> Store | None:
        calm = type(self)(replace(self.bounds, lost_replies=False, stale_list=False), self.rules)
        me = Process("R")
        for _ in range(_RESTART_STEPS):
            move = next(calm._moves(me, store), None)
            if move is None:
                return store if me.at == "idle" and me.inc else None
            me, store = move.process, move.store
        return None


def _version(record: Record) -> Version:
    assert record.version is not None
    return record.version


def _packs(records: Iterable[Record]) -> frozenset[Pack]:
    return frozenset(pack for record in records for pack in record.packs)


def _listed(me: Process) -> frozenset[Record]:
    """The records that the draft lists: the draft is one of them."""
    assert me.draft is not None
    return frozenset({me.draft, *(record for record in me.live if record.name in me.draft.live)})
