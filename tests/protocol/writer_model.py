"""The steps of a writer that both modes share: reading the view, the sweep, saving, retention, deletion.

The deletions of `Bounds.background` are bolder than the protocol: they go on beside all following saves,
however slow.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from .commit_model import CommitModel, Moves
from .vocabulary import Confirmation, Doomed, Move, Name, Pack, Process, Record, Store, Version

OPEN_ATTEMPTS = 2
"""How often an open may be overtaken before it gives up (RunContended)."""


class WriterModel(CommitModel):
    """Rules 2 to 5, 13, 17, 20 and 21."""

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
        me = me._replace(record=me.draft, draft=None, memory=memory)
        return me._replace(at="list_data") if self.rules.sweep else self._ready(me)

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
        pack = own_pack(draft)
        after = self._with_pack(store, pack)
        yield Move("PUT", pack, self._sent(me._replace(draft=draft, at="commit")), after)
        if self.bounds.lost_replies:
            yield Move("PUT, reply lost:", pack, me, after)

    def _with_pack(self, store: Store, pack: Pack) -> Store:
        if not self.rules.record_after_data:
            return store
        others = store.data
        if not self.rules.names_hold_writer:
            others = frozenset(other for other in others if other.seq != pack.seq)
        return store._replace(data=others | {pack})

    def _draft(self, me: Process) -> Record:
        """Rules 4, 5, 19: the record of the next save."""
        assert me.record is not None
        name = self.name_of(me.inc, me.record.name.slot + 1, me.name)
        version = Version(me.inc, me.record.next_seq, me.name)
        listed = me.live if self.rules.live_from_previous else me.memory
        kept = sorted(listed, key=_latest, reverse=True)[: self.bounds.keep - 1]
        live = frozenset({name, *(record.name for record in kept)})
        draft = Record(name, me.inc, me.name, live, version, version.seq + 1, version)
        return draft._replace(packs=frozenset({own_pack(draft), *self._base(me)}))

    def _base(self, me: Process) -> Iterable[Pack]:
        """Rule 5: what an increment names besides its own pack: the own pack of the latest listed checkpoint."""
        listed = me.live if self.rules.base_from_previous else me.memory
        if self.bounds.incremental and listed:
            yield own_pack(max(listed, key=_latest))

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
                saves=me.saves - (me.draft.version is not None),
                memory=me.memory if self.rules.base_from_previous else me.live,
            )
        )

    def _dropped(self, me: Process) -> tuple[Doomed, ...]:
        """Rule 20: packs that no live record names, then records that are neither live nor head."""
        assert me.record is not None
        live = _listed(me)
        packs = _packs(me.live) - _packs(live)
        if not self.rules.delete_only_unnamed:
            packs |= {own_pack(record) for record in me.live - live}
        names = {record.name for record in me.live | {me.record}} - {record.name for record in live}
        return (*sorted(packs), *sorted(names), *self.confirmations(names))

    def confirmations(self, names: Iterable[Name]) -> Iterable[Confirmation]:
        """What goes with the records called `names`."""
        return ()

    def _ready(self, me: Process) -> Process:
        if me.saves:
            return me._replace(at="put_pack")
        if me.prunes and len(me.live) > 1:
            return self._prune(me._replace(prunes=False))
        return Process(me.name, "idle", me.inc, doomed=me.doomed)

    def _prune(self, me: Process) -> Process:
        """Rules 4, 19: a record that commits nothing; of what is listed only the latest stays."""
        assert me.record is not None
        stays = (max if self.rules.latest_stays else min)(me.live, key=_latest)
        name = self.name_of(me.inc, me.record.name.slot + 1, me.name)
        draft = me.record._replace(name=name, live=frozenset({stays.name}), version=None, packs=frozenset())
        me = me._replace(draft=draft)
        if self.rules.prune_is_a_record:
            return self._sent(me._replace(at="commit"))
        return Process(me.name, "idle", me.inc, doomed=me.doomed + self._dropped(me))

    def fenced(self, me: Process) -> Process:
        """Rule 17: delete nothing, write nothing, for ever."""
        if self.rules.fenced_deletes_nothing or me.draft is None:
            return Process(me.name, "idle", me.inc)
        return Process(me.name, "idle", me.inc, doomed=(own_pack(me.draft),))

    def delete(self, me: Process, store: Store) -> Moves:
        """Rules 20, 21: one DELETE of what was decided, in its order, however late."""
        doomed, *rest = me.doomed
        after = store.without(doomed)
        yield Move("DELETE", doomed, me._replace(doomed=tuple(rest)), after)
        if self.bounds.lost_replies:
            yield Move("DELETE, reply lost:", doomed, me, after)


def own_pack(record: Record) -> Pack:
    """The data that the save of this checkpoint wrote."""
    return Pack(record.inc, record.writer, record.next_seq - 1)


def _latest(record: Record) -> Version:
    """A checkpoint's record has its own version as the latest."""
    return record.latest


def _packs(records: Iterable[Record]) -> frozenset[Pack]:
    return frozenset(pack for record in records for pack in record.packs)


def _listed(me: Process) -> frozenset[Record]:
    """The records that the draft lists: the draft is one of them, unless it commits no checkpoint."""
    assert me.draft is not None
    return frozenset(record for record in {me.draft, *me.live} if record.name in me.draft.live)
