"""Resuming: taking the run and going on from the newest sound checkpoint, on all ranks alike.

Rank 0 opens the run before anything is chosen, then proposes one checkpoint after the other. A proposal
stands once every rank has read its part and found every digest right; only then does any rank touch its
objects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from asyncckpt.catalog import Listing, Which
from asyncckpt.errors import CheckpointCorruptError, RestoreError
from asyncckpt.events import Damaged, Listeners
from asyncckpt.format import record as records
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.restoring import SHARED, Loaded, check_world, own_scope
from asyncckpt.worker.ranks import Ranks, tell

logger = logging.getLogger("asyncckpt")


class Resumption:
    """One ``resume()``: `number` counts them, equally on all ranks. `load` reads this rank's part."""

    def __init__(
        self, ranks: Ranks, number: int, listeners: Listeners, load: Callable[[Checkpoint, list[str]], Loaded]
    ) -> None:
        self._ranks = ranks
        self._number = number
        self._listeners = listeners
        self._load = load
        self.damaged: list[int] = []

    def lead(self, listing: Listing, which: Which) -> Loaded | None:
        """Rank 0: propose until a checkpoint stands; None on an empty run.

        Raises `CheckpointCorruptError` if the one named by the user is damaged, or if all are.
        """
        for lost in listing.lost.values():
            self._report(None, None, lost, "record")
        for proposal, record in enumerate(self._candidates(listing, which)):
            if (checkpoint := record.checkpoint) is None:
                continue
            check_world(checkpoint, self._ranks.world)
            self._say(proposal, "choice", {"record": record.encode().decode("ascii")})
            loaded, error = self._try(checkpoint)
            error = self._others(proposal) or error
            self._say(proposal, "verdict", {"stands": error is None})
            if error is None:
                return loaded
            self._report(checkpoint.step, checkpoint.seq, error, error.kind)
            self.damaged.append(checkpoint.seq)
            if which != "latest":
                raise error
        if listing.records or listing.lost:
            raise CheckpointCorruptError(
                f"all {len(listing.records) + len(listing.lost)} checkpoints of this run are damaged (see the log): "
                "nothing was restored; repair one from a copy, or start over in another root"
            )
        self._say(0, "choice", {"none": True})
        return None

    def lead_safely(self, listing: Callable[[], Listing], which: Which) -> Loaded | None:
        """`lead`, telling the other ranks when it raises, so that none of them waits for ever."""
        try:
            return self.lead(listing(), which)
        except BaseException as error:
            tell(self._ranks, self._key("error"), _failure(error))
            raise

    def follow(self) -> Loaded | None:
        """Every other rank: read what rank 0 proposes until a proposal stands."""
        proposal = 0
        while True:
            choice = self._hear(proposal, "choice")
            if choice.get("none"):
                return None
            checkpoint = records.decode(choice["record"].encode("ascii"), "rank 0's proposal").checkpoint
            if checkpoint is None:
                raise RestoreError("rank 0 proposed something that is not a checkpoint")
            loaded = self._read(checkpoint, proposal)
            if self._hear(proposal, "verdict")["stands"]:
                return loaded
            proposal += 1

    def settle(self, failure: BaseException | None) -> None:
        """Tell the others how putting the state back went here, and, if it went well, hear it of all of them.

        Raises `RestoreError` naming the rank that could not: nobody may train on beside it.
        """
        if self._ranks.world > 1:
            tell(self._ranks, self._key("settled", self._ranks.rank), _failure(failure) if failure else {})
        if failure is None:
            for rank in set(range(self._ranks.world)) - {self._ranks.rank}:
                said = self._fetch(rank, self._key("settled", rank))
                if "error" in said:
                    raise RestoreError(f"rank {rank} could not put its state back: {said['error']}")

    def _candidates(self, listing: Listing, which: Which) -> list[Record]:
        by_seq: Mapping[int, Record] = {r.checkpoint.seq: r for r in listing.records if r.checkpoint}
        named = listing.candidates() if which == "latest" else [listing.find(which)]
        return [by_seq[checkpoint.seq] for checkpoint in named]

    def _try(self, checkpoint: Checkpoint) -> tuple[Loaded | None, CheckpointCorruptError | None]:
        scopes = [SHARED] if self._ranks.world == 1 else [SHARED, own_scope(self._ranks.rank)]
        try:
            return self._load(checkpoint, scopes), None
        except CheckpointCorruptError as error:
            return None, error

    def _read(self, checkpoint: Checkpoint, proposal: int) -> Loaded | None:
        """Read this rank's part of what rank 0 proposed, and tell how that went."""
        key = self._key(proposal, "read", self._ranks.rank)
        try:
            loaded, damage = self._try(checkpoint)
        except BaseException as error:
            tell(self._ranks, key, _failure(error))
            raise
        tell(self._ranks, key, {"damage": str(damage), "kind": damage.kind} if damage else {})
        return loaded

    def _others(self, proposal: int) -> CheckpointCorruptError | None:
        """Hear how all other ranks have read; raises `RestoreError` if one failed for a reason of its own."""
        for rank in range(1, self._ranks.world):
            said = self._fetch(rank, self._key(proposal, "read", rank))
            if "error" in said:
                raise RestoreError(f"rank {rank} could not resume: {said['error']}")
            if "damage" in said:
                return CheckpointCorruptError(f"rank {rank}: {said['damage']}", said["kind"])
        return None

    def _say(self, proposal: int, what: str, value: dict[str, Any]) -> None:
        tell(self._ranks, self._key(proposal, what), value)

    def _hear(self, proposal: int, what: str) -> dict[str, Any]:
        """What rank 0 says next; raises `RestoreError` if that is that it failed."""
        said = self._fetch(0, self._key(proposal, what), self._key("error"))
        if "error" in said:
            raise RestoreError(f"rank 0 could not resume: {said['error']}")
        return said

    def _fetch(self, rank: int, *keys: str) -> dict[str, Any]:
        try:
            return self._ranks.fetch_any(keys, self._ranks.deadline)
        except (TimeoutError, ConnectionError) as error:
            raise RestoreError(f"rank {rank} was not heard during resume(): {error}") from error

    def _key(self, *parts: object) -> str:
        return "/".join(map(str, ("resume", self._number, *parts)))

    def _report(self, step: int | None, seq: int | None, error: CheckpointCorruptError, kind: str) -> None:
        logger.error("a listed checkpoint (step %s) is damaged and is left as it is: %s", step, error)
        self._listeners.emit(Damaged(step, seq, str(error), kind))


def _failure(error: BaseException) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"}
