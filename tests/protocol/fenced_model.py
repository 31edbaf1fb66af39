"""Mode "fenced": no conditional write; incarnations are claimed, records are confirmed."""

from __future__ import annotations

from collections.abc import Iterable

from .commit_model import Moves
from .vocabulary import Claim, Confirmation, Move, Name, Process, Record, Sent, Store, Version
from .writer_model import OPEN_ATTEMPTS, WriterModel


class FencedModel(WriterModel):
    """Rules 11 and 16."""

    def name_of(self, inc: int, slot: int, writer: str) -> Name:
        """``commits/<inc>-<slot>-<writer nonce>.json``: nobody else ever writes this name."""
        return Name(inc, slot, writer)

    def first_store(self, store: Store) -> Store:
        """The record that is there was confirmed."""
        return store._replace(confirmations=frozenset(Confirmation(record.name) for record in store.records))

    def head_of(self, store: Store) -> Record | None:
        """Rule 16: a reader's head is the ``.ok`` with the highest (inc, slot)."""
        if not self.rules.head_is_confirmed:
            return max(store.records, default=None)
        return store.find(max(store.confirmations).name) if store.confirmations else None

    # -- open: rule 11 --------------------------------------------------------------------------

    def start(self, me: Process, store: Store) -> Moves:
        """An open begins with the highest incarnation seen."""
        return self.list_incs(me, store)

    def list_incs(self, me: Process, store: Store) -> Moves:
        """Rule 11: LIST; inc = 1 + highest inc seen, in whatever name."""
        seen = [record.inc for record in store.records] + [claim.inc for claim in store.claims]
        inc = 1 + max(seen + [ok.name.inc for ok in store.confirmations])
        at = "put_claim" if self.rules.list_after_claim else "list_log"
        yield Move("LIST commits/: takes inc", inc, me._replace(at=at, inc=inc), store)

    def put_claim(self, me: Process, store: Store) -> Moves:
        """Rule 11: PUT the claim."""
        at = "check_claim" if self.rules.check_after_claim else self._claimed_at()
        yield from self._put(Claim(me.inc, me.name), me, me._replace(at=at), store)

    def _claimed_at(self) -> str:
        return "list_log" if self.rules.list_after_claim else "put_open"

    def check_claim(self, me: Process, store: Store) -> Moves:
        """Rule 11: LIST; another claim with inc >= own -> a new claim, higher."""
        if not any(claim.inc >= me.inc and claim.writer != me.name for claim in store.claims):
            yield Move("LIST commits/: no rival", None, me._replace(at=self._claimed_at()), store)
        elif me.attempts + 1 < OPEN_ATTEMPTS:
            me = Process(me.name, "list_incs", saves=me.saves, attempts=me.attempts + 1)
            yield Move("LIST commits/: a rival claim, claims anew", None, me, store)
        else:
            yield Move("LIST commits/: contended, gives up", None, Process(me.name, "idle"), store)

    def list_log(self, me: Process, store: Store) -> Moves:
        """Rule 11: LIST after the claim; the record with the highest (inc, slot) below own, confirmed or not."""
        names = sorted(record.name for record in store.records if record.inc < me.inc)
        if not self.rules.adopt_unconfirmed:
            names = [name for name in names if Confirmation(name) in store.confirmations]
        for name in names if self.bounds.stale_list else names[-1:]:
            yield Move("LIST commits/ ->", name, me._replace(at="read_head", seen=name), store)

    def after_view(self, me: Process) -> Process:
        """Rule 11: PUT the open record next (the claim first, if that rule is off)."""
        at = "put_open" if self.rules.list_after_claim else "put_claim"
        return me._replace(at=at, draft=self.open_record(me, me.inc))

    def put_open(self, me: Process, store: Store) -> Moves:
        """Rule 11: PUT the open record."""
        assert me.draft is not None
        at = "check_open" if self.rules.check_after_open else "confirm_open"
        yield from self._put(me.draft, me, me._replace(at=at), store)

    def check_open(self, me: Process, store: Store) -> Moves:
        """Rule 11: LIST; a higher claim -> stop."""
        yield from self._check(me, store, "confirm_open")

    def confirm_open(self, me: Process, store: Store) -> Moves:
        """Rule 11: PUT the ``.ok`` of the open record: only now the run is taken."""
        assert me.draft is not None
        yield from self._put(Confirmation(me.draft.name), me, self.opened(me), store)

    # -- commit: rule 16 ------------------------------------------------------------------------

    def commit(self, me: Process, store: Store) -> Moves:
        """Rule 16: PUT own record."""
        assert me.draft is not None
        at = "check_commit" if self.rules.check_after_record else "confirm_commit"
        yield from self._put(me.draft, me, me._replace(at=at), store)

    def check_commit(self, me: Process, store: Store) -> Moves:
        """Rule 16: LIST; a claim with higher inc -> stop, not durable (the successor may adopt it)."""
        yield from self._check(me, store, "confirm_commit")

    def confirm_commit(self, me: Process, store: Store) -> Moves:
        """Rule 16: PUT ``.ok`` -> durable."""
        assert me.draft is not None
        yield from self._put(Confirmation(me.draft.name), me, self.durable(me), store, me.draft.version)

    def confirmations(self, names: Iterable[Name]) -> Iterable[Confirmation]:
        """The ``.ok`` of a record goes after it."""
        return (Confirmation(name) for name in sorted(names))

    # -- requests -------------------------------------------------------------------------------

    def _put(self, sent: Sent, me: Process, done: Process, store: Store, durable: Version | None = None) -> Moves:
        """A PUT that is simply repeated when its reply is lost. Lost on the way, it changes nothing at all."""
        after = self.deliver(store, sent)
        yield Move("PUT", sent, done, after, durable, sent)
        if self.bounds.lost_replies:
            yield Move("PUT, reply lost:", sent, me, after, sent=sent)

    def _check(self, me: Process, store: Store, at: str) -> Moves:
        higher = max((claim for claim in store.claims if claim.inc > me.inc), default=None)
        if higher is None:
            yield Move("LIST commits/: no higher claim", None, me._replace(at=at), store)
        else:
            yield Move("LIST commits/, fenced by", higher, self.fenced(me), store)
