"""The protocol's words as values: what lies in the store, what a writer remembers, and what is varied.

Everything is immutable and hashable, since states of the model are compared and remembered. Named tuples and
frozen sets do that fastest; they hold what the protocol's section 4 says, cut down to what its safety rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias


class Version(NamedTuple):
    """Which checkpoint. Incarnation, then sequence number say which of two is newer (rule 29)."""

    inc: int
    seq: int
    writer: str

    def newer_than(self, other: Version) -> bool:
        """Whether this is the newer one; of two writers' equal numbers neither is."""
        return (self.inc, self.seq) > (other.inc, other.seq)

    def __str__(self) -> str:
        return f"{self.seq}-i{self.inc}-{self.writer}"


class Pack(NamedTuple):
    """A data object. Its name holds writer, incarnation and sequence number (rule 2), so the name is all of it.

    Stands for the whole folder of one save: packs, reports and manifest become durable before the record (13).
    """

    inc: int
    writer: str
    seq: int

    def __str__(self) -> str:
        return f"data/{self.seq}-i{self.inc}-{self.writer}"


class Name(NamedTuple):
    """The key of a record. The greatest name is the newest record, in both modes.

    Mode "exclusive" has one record per slot: `inc` and `writer` stay blank. Mode "fenced" has one per
    incarnation, slot and writer.
    """

    inc: int
    slot: int
    writer: str

    def __str__(self) -> str:
        return f"commits/{self.inc}-{self.slot}-{self.writer}" if self.writer else f"commits/{self.slot}"


class Record(NamedTuple):
    """A commit record: who wrote it, what is listed from here on, and the checkpoint it commits, if any."""

    name: Name
    inc: int
    writer: str
    live: frozenset[Name]
    """The catalog (rule 3): the records of the listed checkpoints, the own one included."""
    latest: Version
    next_seq: int
    version: Version | None = None
    """Of the checkpoint; None in an open record and in one that only prunes."""
    packs: frozenset[Pack] = frozenset()

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name} (open or prune, inc {self.inc})"
        named = ", ".join(str(pack) for pack in sorted(self.packs))
        return f"{self.name} (checkpoint {self.version}, naming {named})"


class Claim(NamedTuple):
    """Mode "fenced": a writer's claim to an incarnation."""

    inc: int
    writer: str

    def __str__(self) -> str:
        return f"commits/{self.inc}-0-{self.writer}.claim"


class Confirmation(NamedTuple):
    """Mode "fenced": the ``.ok`` of a record."""

    name: Name

    def __str__(self) -> str:
        return f"{self.name}.ok"


Sent: TypeAlias = Record | Claim | Confirmation
"""An object of the commit log on its way to the store."""

Doomed: TypeAlias = Pack | Name | Claim | Confirmation
"""An object that a writer has decided to delete; a name stands for the record."""


class Store(NamedTuple):
    """Every object under the root."""

    records: frozenset[Record]
    data: frozenset[Pack]
    claims: frozenset[Claim] = frozenset()
    confirmations: frozenset[Confirmation] = frozenset()

    def find(self, name: Name) -> Record | None:
        """The record called `name`, or None."""
        for record in self.records:
            if record.name == name:
                return record
        return None

    def put(self, sent: Sent) -> Store:
        """The store after a PUT that replaces what has the same name."""
        match sent:
            case Record():
                others = (other for other in self.records if other.name != sent.name)
                return self._replace(records=frozenset({sent, *others}))
            case Claim():
                return self._replace(claims=self.claims | {sent})
            case Confirmation():
                return self._replace(confirmations=self.confirmations | {sent})

    def without(self, doomed: Doomed) -> Store:
        """The store after a DELETE, which an absent object does not fail."""
        match doomed:
            case Pack():
                return self._replace(data=self.data - {doomed})
            case Name():
                return self._replace(records=frozenset(r for r in self.records if r.name != doomed))
            case Claim():
                return self._replace(claims=self.claims - {doomed})
            case Confirmation():
                return self._replace(confirmations=self.confirmations - {doomed})


class Process(NamedTuple):
    """What one process remembers. `at` names the method of the model that makes its next request.

    A process that crashed is one that is never scheduled again: it needs no mark. One that is scheduled late,
    after others took over, is a zombie: it needs none either.
    """

    name: str
    at: str = "start"
    inc: int = 0
    """Own incarnation, once it has one."""
    seen: Name | None = None
    """The newest record in the listing it looked at last."""
    record: Record | None = None
    """The record before the next own one: the head it found; from its open on, its own newest."""
    live: frozenset[Record] = frozenset()
    """The records in `record.live`, as read (rule 12: the view of the own record)."""
    draft: Record | None = None
    """The own record being written: sent, perhaps there, not yet known to count."""
    doomed: tuple[Doomed, ...] = ()
    """What is to be deleted beside everything else, in this order."""
    saves: int = 0
    """How many saves it has yet to make."""
    prunes: bool = False
    """It has yet to prune, by a record that commits nothing, once its saves are made."""
    attempts: int = 0
    """How often an open was overtaken."""
    memory: frozenset[Record] = frozenset()
    """What only a mutant remembers: checkpoints that were listed once (see `Rules`)."""


class Move(NamedTuple):
    """One storage request: what it was, and what the process and the store are after it."""

    request: str
    subject: object
    process: Process
    store: Store
    durable: Version | None = None
    """A checkpoint that the process reports durable upon the reply."""
    sent: Sent | None = None
    """What the request created: the network may keep a duplicate of it."""

    def __str__(self) -> str:
        reported = "" if self.durable is None else f", reports checkpoint {self.durable} durable"
        subject = "" if self.subject is None else f" {self.subject}"
        return f"{self.process.name}: {self.request}{subject}{reported}"


Delayed: TypeAlias = Sent | Literal["none yet", "spent"]
"""The duplicate of a create that is still in the network."""


class State(NamedTuple):
    """A state of the model: the store, every process, and two things that no process can see."""

    store: Store
    processes: tuple[Process, ...]
    reported: frozenset[Version]
    """The newest checkpoints that were reported durable: as many as retention keeps. That is enough: an older
    one may leave the catalog once these are in it, and that they are is what I2 watches."""
    delayed: Delayed = "spent"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is explored."""

    saves: tuple[int, ...] = (2, 2)
    """How many saves each writer makes: so this is also the number of writers."""
    holder: bool = False
    """The first writer has opened and swept already: what comes before is not explored."""
    keep: int = 1
    """Retention: how many of the newest checkpoints stay listed."""
    prune: bool = False
    """Each writer prunes once its saves are made: only the latest stays listed. One without saves is a command."""
    incremental: bool = True
    """Each checkpoint also names the own pack of the one before it."""
    lost_replies: bool = False
    """The reply to any PUT or DELETE may be lost, whether it was applied or not."""
    duplicate: bool = False
    """One create of a record, claim or confirmation is delivered a second time, at any later moment; with lost
    replies: or it is delivered only then."""
    background: bool = False
    """Deletions, the sweep's included, go on beside the following saves. Off: one actor does all (rule 6)."""
    stale_list: bool = False
    """The LIST at open that finds the head may return an older state. All other LISTs are fresh."""

    @property
    def sure(self) -> int:
        """How many of the newest checkpoints that were reported durable stay listed, whatever happens."""
        return 1 if self.prune else self.keep


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that can be taken away, by number in the protocol; all are in force by default."""

    exclusive_create: bool = True
    """1: a client that cannot create exclusively refuses. Off: creates overwrite."""
    names_hold_writer: bool = True
    """2: no name is ever reused. Off: the data of equal sequence numbers lies under one name."""
    catalog_is_live_set: bool = True
    """3: the catalog is the head's live set. Off: every checkpoint record that is present is listed."""
    live_from_previous: bool = True
    """4: a record's live set comes from the record before. Off: from the one that the writer opened on."""
    base_from_previous: bool = True
    """5: only packs that the record before lists are named. Off: the base is the checkpoint before the last."""
    sweeper_opens: bool = True
    """8: who sweeps is a writer. Off: a process without saves ("a tool") sweeps on what it listed."""
    check_after_open: bool = True
    """10, 11: LIST after the own open record."""
    list_after_claim: bool = True
    """11: records are listed after the claim. Off: before it."""
    check_after_claim: bool = True
    """11: LIST after the claim; a rival of the same or a higher incarnation means a new claim."""
    adopt_unconfirmed: bool = True
    """11: an opener builds on the newest record, confirmed or not. Off: on the newest confirmed one."""
    record_after_data: bool = True
    """13: packs are durable before the record is written. Off: they come later, after a crash never."""
    stop_on_conflict: bool = True
    """14: another's record in the own slot fences. Off: the next slot is tried."""
    own_bytes_are_success: bool = True
    """14: exists with the own bytes is success. Off: it is a failed save, and its data is cleaned up."""
    unknown_is_read: bool = True
    """14: after a lost reply the slot is read. Off: the create is taken for done."""
    check_after_commit: bool = True
    """15: LIST above the own slot before reporting durable."""
    check_after_record: bool = True
    """16: LIST after the own record, before it is confirmed."""
    head_is_confirmed: bool = True
    """16: the head is the newest confirmed record. Off: the newest record."""
    fenced_deletes_nothing: bool = True
    """17: a fenced writer deletes nothing. Off: it cleans up the data of the save it gave up."""
    latest_stays: bool = True
    """19: a prune drops neither the latest nor, so, what a resume would take. Off: it drops just that."""
    prune_is_a_record: bool = True
    """19: removal takes effect in a record. Off: what is pruned is deleted, and listed as before."""
    delete_after_durable: bool = True
    """20: what a record drops is deleted once the record is durable. Off: from the moment it is sent."""
    delete_only_unnamed: bool = True
    """20: packs that a live record names stay. Off: a dropped checkpoint's own pack goes in any case."""
    sweep: bool = True
    """21: an open sweeps. Off: it does not."""
    sweep_only_older: bool = True
    """21: only data of older incarnations is swept. Off: all of it that is not live."""
