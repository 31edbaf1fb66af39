"""Home: the tier that the user named as the root. It holds the fence, and gives incarnations and sequence numbers.

Every other tier is a run of its own, with records, slots and retention of its own, opened under the numbers of whoever
has taken home: so one checkpoint has one name wherever it lies, and two that differ never have the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asyncckpt.format.names import directory_of
from asyncckpt.format.record import Checkpoint, Record, WriterId


@dataclass(frozen=True, slots=True)
class Home:
    """Whose checkpoints another tier holds: the run's id, and who has taken it under which incarnation."""

    run: str
    inc: int
    writer: WriterId


@dataclass(frozen=True, slots=True)
class Seen:
    """The highest incarnation and the next sequence number in tiers that could be looked at: home's go on above."""

    inc: int = 0
    next_seq: int = 1
    is_ahead: bool = False
    """Whether a checkpoint was found that home has never numbered: home was set back since."""

    def and_(self, other: Seen) -> Seen:
        """What was seen in both."""
        return Seen(max(self.inc, other.inc), max(self.next_seq, other.next_seq))


def above(head: Record, listed: Iterable[Checkpoint], checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Those of `checkpoints`, of another tier, that home may get still, whose `head` lists the `listed` ones.

    Only what is newer than all that it has: or a branch that was abandoned came back.
    """
    number, newest = (head.latest_inc or 0, head.latest or 0), 0
    for known in listed:
        number, newest = max(number, number_of(known)), max(newest, known.seq)
    return [c for c in checkpoints if number_of(c) > number and c.seq > newest]


def number_of(checkpoint: Checkpoint) -> tuple[int, int]:
    """Incarnation and sequence number: what orders checkpoints of one run, in whatever tier they are found."""
    directory = directory_of(checkpoint.manifest.key)
    return (directory.inc if directory else 0), checkpoint.seq
