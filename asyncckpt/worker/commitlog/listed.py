"""Listed: the checkpoints that a writer's head lists.

Whatever a commit has to know of all of them is kept up to date by each that comes or goes: with ten thousand, a walk
over them would take longer than the rest of a small save.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.worker.commitlog.contest import Contest
from asyncckpt.worker.commitlog.follower import Follower
from asyncckpt.worker.commitlog.uses import Uses


class Listed:
    """Checkpoints by rising sequence number, each with the slot of the record that committed it."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.uses = Uses()
        self.contest = Contest()
        self._followers: list[Follower] = [self.uses, self.contest]
        self._records: dict[int, Record] = {}
        self._checkpoints: dict[int, Checkpoint] = {}
        for record in records:
            if record.checkpoint is not None:
                self.add(record, record.checkpoint)

    def __len__(self) -> int:
        return len(self._checkpoints)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._checkpoints.values())

    def __contains__(self, seq: object) -> bool:
        return seq in self._checkpoints

    @property
    def records(self) -> tuple[Record, ...]:
        """The records that committed them."""
        return tuple(self._records.values())

    def record(self, seq: int) -> Record:
        """The record that committed the checkpoint with this number, which is listed."""
        return self._records[seq]

    def get(self, seq: int) -> Checkpoint | None:
        """The checkpoint with this number, if it is listed."""
        return self._checkpoints.get(seq)

    def follow(self, follower: Follower) -> None:
        """Tell `follower` of what is listed now, and of each that comes and goes."""
        for checkpoint in self:
            follower.add(checkpoint)
        self._followers.append(follower)

    def add(self, record: Record, checkpoint: Checkpoint) -> None:
        """List `checkpoint`, the newest of all, which `record` committed."""
        self._records[checkpoint.seq] = record
        self._checkpoints[checkpoint.seq] = checkpoint
        for follower in self._followers:
            follower.add(checkpoint)

    def remove(self, seq: int) -> Checkpoint:
        """List the checkpoint with this number, which is listed, no longer."""
        del self._records[seq]
        checkpoint = self._checkpoints.pop(seq)
        for follower in self._followers:
            follower.remove(checkpoint)
        return checkpoint
