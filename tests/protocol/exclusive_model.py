"""Mode "exclusive": one record per slot, created by whoever comes first."""

from __future__ import annotations

from .commit_model import Moves
from .vocabulary import Move, Name, Process, Record, Sent, Store
from .writer_model import OPEN_ATTEMPTS, WriterModel, own_pack


class ExclusiveModel(WriterModel):
    """Rules 10, 14 and 15."""

    def name_of(self, inc: int, slot: int, writer: str) -> Name:
        """``commits/<slot>.json``: incarnation and writer are not part of the name."""
        return Name(0, slot, "")

    def head_of(self, store: Store) -> Record | None:
        """The record in the highest slot."""
        return max(store.records, default=None)

    # -- open: rule 10 --------------------------------------------------------------------------

    def start(self, me: Process, store: Store) -> Moves:
        """An open begins with the listing."""
        return self.list_log(me, store)

    def list_log(self, me: Process, store: Store) -> Moves:
        """Rule 10: LIST; highest slot n. A stale listing names a lower one (if it is gone: LIST again)."""
        names = sorted(record.name for record in store.records)
        for name in names if self.bounds.stale_list else names[-1:]:
            yield Move("LIST commits/ ->", name, me._replace(at="read_head", seen=name), store)

    def after_view(self, me: Process) -> Process:
        """Rule 10: create n+1 with incarnation head.inc + 1."""
        assert me.record is not None
        inc = me.record.inc + 1
        if not self.rules.sweeper_opens and not me.saves:
            return me._replace(at="list_data", inc=inc)
        return me._replace(at="create_open", inc=inc, draft=self.open_record(me, inc))

    def create_open(self, me: Process, store: Store) -> Moves:
        """Rule 10: create the open record; exists -> LIST again."""
        yield from self._create(me, store, created=self._check_open(me), refused=_again(me), settle="settle_open")

    def settle_open(self, me: Process, store: Store) -> Moves:
        """Rule 14, for the open record: outcome unknown, so read."""
        yield from self._settle(me, store, created=self._check_open(me), refused=_again(me), absent="create_open")

    def _check_open(self, me: Process) -> Process:
        return me._replace(at="check_open") if self.rules.check_after_open else self.opened(me)

    def check_open(self, me: Process, store: Store) -> Moves:
        """Rule 10: LIST again; any slot above own means a hole or an overtaking: retry, in the end give up."""
        if self._newest_above(me, store) is None:
            yield Move("LIST commits/: own open is the head", None, self.opened(me), store)
        elif me.attempts + 1 < OPEN_ATTEMPTS:
            me = _again(me)._replace(attempts=me.attempts + 1)
            yield Move("LIST commits/: overtaken, opens again", None, me, store)
        else:
            yield Move("LIST commits/: contended, gives up", None, Process(me.name, "idle"), store)

    # -- commit: rules 14, 15 -------------------------------------------------------------------

    def commit(self, me: Process, store: Store) -> Moves:
        """Rule 14: create slot s = own last slot + 1."""
        yield from self._create(
            me, store, created=self._check_commit(me), refused=self._conflict(me), settle="settle_commit"
        )

    def settle_commit(self, me: Process, store: Store) -> Moves:
        """Rule 14: the outcome is unknown. GET s: own bytes, other bytes, or absent."""
        yield from self._settle(me, store, created=self._check_commit(me), refused=self._conflict(me), absent="commit")

    def _conflict(self, me: Process) -> Process:
        """Rule 14: other bytes in the own slot: fenced, never the next slot."""
        assert me.draft is not None
        draft = me.draft
        if self.rules.stop_on_conflict or draft.name.slot > 5:
            return self.fenced(me)
        name = draft.name._replace(slot=draft.name.slot + 1)
        return me._replace(draft=draft._replace(name=name, live=draft.live - {draft.name} | {name}), at="commit")

    def _check_commit(self, me: Process) -> Process:
        return me._replace(at="check_commit")

    def check_commit(self, me: Process, store: Store) -> Moves:
        """Rule 15: LIST above s. Nothing -> durable."""
        assert me.draft is not None
        newest = self._newest_above(me, store) if self.rules.check_after_commit else None
        if newest is None:
            yield Move("LIST commits/: nothing above", None, self.durable(me), store, me.draft.version)
        else:
            yield Move("LIST commits/ ->", newest, me._replace(at="read_newer", seen=newest), store)

    def read_newer(self, me: Process, store: Store) -> Moves:
        """Rule 15: durable only if the newer head lists s; fenced either way. Gone -> LIST again."""
        assert me.seen is not None
        assert me.draft is not None
        head = store.find(me.seen)
        if head is None:
            yield Move("GET (gone)", me.seen, me._replace(at="check_commit", seen=None), store)
        elif me.draft.name in head.live:
            done = Process(me.name, "idle", me.inc)
            yield Move("GET, adopted, fenced:", head, done, store, me.draft.version)
        else:
            yield Move("GET, fenced:", head, self.fenced(me), store)

    # -- exclusive create -----------------------------------------------------------------------

    def deliver(self, store: Store, sent: Sent) -> Store:
        """Rule 1: a create of an existing name is refused."""
        refused = isinstance(sent, Record) and self._in_the_way(store, sent)
        return store if refused else store.put(sent)

    def _in_the_way(self, store: Store, record: Record) -> Record | None:
        return store.find(record.name) if self.rules.exclusive_create else None

    def _create(self, me: Process, store: Store, *, created: Process, refused: Process, settle: str) -> Moves:
        """Rule 14: success, or exists with exactly the own bytes -> `created`; exists otherwise -> `refused`."""
        assert me.draft is not None
        found, after = self._in_the_way(store, me.draft), self.deliver(store, me.draft)
        if found is None:
            yield Move("create", me.draft, created, after, sent=me.draft)
        elif found == me.draft:
            yield Move("create -> exists, own bytes:", me.draft, self._own_bytes(me, created), store)
        else:
            yield Move("create -> exists, not own:", me.draft, refused, store)
        if self.bounds.lost_replies:
            unknown = me._replace(at=settle) if self.rules.unknown_is_read else created
            yield Move("create, lost on the way:", me.draft, unknown, store, sent=me.draft)
            yield Move("create, reply lost:", me.draft, unknown, after, sent=me.draft)

    def _settle(self, me: Process, store: Store, *, created: Process, refused: Process, absent: str) -> Moves:
        assert me.draft is not None
        found = store.find(me.draft.name)
        if found is None:
            yield Move("GET: absent", me.draft.name, me._replace(at=absent), store)
        elif found == me.draft:
            yield Move("GET: own bytes", me.draft.name, self._own_bytes(me, created), store)
        else:
            yield Move("GET: not own", me.draft.name, refused, store)

    def _own_bytes(self, me: Process, created: Process) -> Process:
        """Rule 14: an earlier try of this very create was applied."""
        if self.rules.own_bytes_are_success or me.draft is None:
            return created
        return Process(me.name, "idle", me.inc, doomed=(own_pack(me.draft),))

    def _newest_above(self, me: Process, store: Store) -> Name | None:
        assert me.draft is not None
        return max((r.name for r in store.records if r.name > me.draft.name), default=None)


def _again(me: Process) -> Process:
    return Process(me.name, "list_log", saves=me.saves, attempts=me.attempts)
