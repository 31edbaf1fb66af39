"""Consensus: all ranks go on from the same checkpoint, or none does.

Rank 0 chooses, and proposes one checkpoint after the other. Once every rank has read its part, found right what it
read and seen that it fits, all put it back; a proposal stands once every rank has done so. What each rank says on its
own of a run in which somebody saves meanwhile might be the latest of two different moments.

Rank 0 is at work from the beginning to the end, and waits for another rank only as long as that one is at work on what
it was asked for: so no two of them keep each other waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from asyncckpt.distributed.counts import Counts
from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError, RankMissing, RestoreError
from asyncckpt.format.record import Checkpoint, checkpoint_json, checkpoint_of
from asyncckpt.restores.restoring import SHARED, check_world, own_scope
from asyncckpt.worker.listening import Listening, anything, wait
from asyncckpt.worker.ranks import CALL_KEY, Ranks, at_work

_T = TypeVar("_T")
_R = TypeVar("_R")
_Unusable: TypeAlias = CheckpointCorruptError | CheckpointNotFoundError
"""Why one checkpoint does not stand, while another may."""


class Consensus(Generic[_T]):
    """One ``resume()`` or ``restore()``: `call` is what the user called, `former` rank 0's number of the one before.

    `load` reads this rank's part of a checkpoint, by its scopes, and raises if it does not fit; `place` puts it back,
    and returns what it has put.
    """

    def __init__(
        self,
        ranks: Ranks,
        former: int,
        call: str,
        load: Callable[[Checkpoint, list[str]], _T],
        place: Callable[[_T], _T],
    ) -> None:
        self._ranks = ranks
        self.number = former
        self._call = call
        self._load = load
        self._place = place
        self._proposals = 0
        self._given_up = ""
        """For messages: the call of rank 0 that was passed over while this rank waits for another."""

    @property
    def is_led_here(self) -> bool:
        """Whether it is this rank that chooses."""
        return self._ranks.rank == 0

    @contextmanager
    def under_way(self, counts: Counts | None) -> Iterator[None]:
        """Around everything: rank 0 numbers the call, and its failure reaches the others, who take over its `counts`.

        Raises `RestoreError` where rank 0 is in another call.
        """
        if not self.is_led_here:
            self._join(counts)
            yield
            return
        self.number += 1
        with at_work(self._ranks, self._key()):
            counted = None if counts is None else [counts.saves, counts.decisions]
            self._ranks.tell(CALL_KEY, {"number": self.number, "call": self._call, "counts": counted})
            try:
                yield
            except BaseException as error:
                absent = isinstance(error.__cause__, RankMissing)
                self._ranks.tell(self._key("error"), {**_failure(error), "absent": absent})
                raise

    # -- rank 0 --------------------------------------------------------------------------------------------

    def propose(self, checkpoint: Checkpoint) -> _T:
        """Read a checkpoint on all ranks and put it back on all; what was put here is returned.

        Raises `CheckpointCorruptError` or `CheckpointNotFoundError` if any rank found it so: then another may be
        proposed. Raises what failed here, and `RestoreError` naming another rank that failed for a reason of its own:
        nobody may train on beside it.
        """
        check_world(checkpoint, self._ranks.world)
        proposal, self._proposals = self._proposals, self._proposals + 1
        self._say(proposal, "choice", {"checkpoint": checkpoint_json(checkpoint)})
        loaded = self._together(proposal, "read", partial(self._read, checkpoint))
        return self._together(proposal, "placed", partial(self._place, loaded))

    def give_up(self) -> None:
        """There is no checkpoint to take, and that is no failure."""
        self._say(self._proposals, "choice", {"checkpoint": None})

    def _together(self, proposal: int, what: str, act: Callable[[], _R]) -> _R:
        """`act` here, hear how the other ranks did the same, and tell them whether all could."""
        done, unusable = _tried(act)
        unusable = self._others(proposal, what) or unusable
        self._say(proposal, f"{what}-by-all", {"stands": unusable is None})
        if unusable is not None:
            raise unusable
        return done[0]

    def _others(self, proposal: int, what: str) -> _Unusable | None:
        """Hear how all other ranks fared; raises `RestoreError` if one failed for a reason of its own."""
        task = self._what if what == "read" else "put its state back"
        found: _Unusable | None = None
        for rank in range(1, self._ranks.world):
            said = self._fetch(rank, self._key(proposal, what, rank))
            if "error" in said:
                raise RestoreError(f"rank {rank} could not {task}: {said['error']}")
            if "damage" in said:
                found = CheckpointCorruptError(f"rank {rank}: {said['damage']}", said["kind"])
            elif "gone" in said:
                found = found or CheckpointNotFoundError(
                    f"rank {rank}: {said['gone']}; or it does not see the same root as rank 0"
                )
        return found

    # -- every other rank ----------------------------------------------------------------------------------

    def _join(self, counts: Counts | None) -> None:
        said = self._fetch(0, CALL_KEY, concerns=self._may_be_ours)
        self.number, self._given_up = said["number"], ""
        if said["call"] != self._call:
            error = RestoreError(f"rank 0 called {said['call']}, and rank {self._ranks.rank} {self._call}")
            self._ranks.tell(self._key(0, "read", self._ranks.rank), _failure(error))
            raise error
        if counts is not None:
            counts.follow(*said["counts"])

    def _may_be_ours(self, said: dict[str, Any]) -> bool:
        """Whether rank 0 made this call after the one before, and did not give it up because a rank was absent.

        Taking part in such a one would fail, and keep this rank from rank 0's next call, which would fail in turn.
        """
        number: int = said["number"]
        if number > self.number and (ended := self._ranks.peek(_key(number, "error"))) and ended["absent"]:
            self.number, self._given_up = number, f"; rank 0 gave up its call number {number}: {ended['error']}"
        return number > self.number

    def follow(self) -> _T | None:
        """Read and put back what rank 0 proposes until a proposal stands; None if there is nothing to take."""
        proposal = 0
        while True:
            choice = self._hear(proposal, "choice")
            if choice["checkpoint"] is None:
                return None
            checkpoint = checkpoint_of(choice["checkpoint"])
            read = self._beside(proposal, "read", partial(self._read, checkpoint))
            placed = self._beside(proposal, "placed", partial(self._place, read[0])) if read else []
            if placed:
                return placed[0]
            proposal += 1

    def _beside(self, proposal: int, what: str, act: Callable[[], _R]) -> list[_R]:
        """`act` here and tell rank 0 how that went; what it gave, or nothing if not all ranks could."""
        key = self._key(proposal, what, self._ranks.rank)
        try:
            with at_work(self._ranks, self._key()):
                done, unusable = _tried(act)
        except BaseException as error:
            self._ranks.tell(key, _failure(error))
            raise
        self._ranks.tell(key, _complaint(unusable))
        return done if self._hear(proposal, f"{what}-by-all")["stands"] else []

    def _hear(self, *key: object) -> dict[str, Any]:
        """What rank 0 says next; raises `RestoreError` if that is that it failed."""
        said = self._fetch(0, self._key(*key), self._key("error"))
        if "error" in said:
            raise RestoreError(f"rank 0 could not {self._what}: {said['error']}")
        return said

    # -- every rank ----------------------------------------------------------------------------------------

    def finish(self, act: Callable[[], None]) -> None:
        """After a proposal that stands: `act` on rank 0, and only then return on any; the others hear if it fails."""
        if self.is_led_here:
            act()
            self._ranks.tell(self._key("done"), {})
        else:
            self._hear("done")

    def _read(self, checkpoint: Checkpoint) -> _T:
        return self._load(checkpoint, [SHARED] if self._ranks.world == 1 else [SHARED, own_scope(self._ranks.rank)])

    def _say(self, proposal: int, what: str, value: dict[str, Any]) -> None:
        self._ranks.tell(self._key(proposal, what), value)

    def _fetch(self, rank: int, *keys: str, concerns: Callable[[dict[str, Any]], bool] = anything) -> dict[str, Any]:
        hint = f": either it is gone, or it does not call {self._call} as this rank does"
        word = f"answer in {self._call}"
        try:
            return wait(Listening(self._ranks, rank, keys, word, task=self._key(), hint=hint, concerns=concerns))
        except RankMissing as error:
            raise RestoreError(f"{error}{self._given_up}") from error

    @property
    def _what(self) -> str:
        return self._call.partition("(")[0]

    def _key(self, *parts: object) -> str:
        return _key(self.number, *parts)


def _key(number: int, *parts: object) -> str:
    """Where something is said in rank 0's call of this number."""
    return "/".join(map(str, ("consensus", number, *parts)))


def _tried(act: Callable[[], _R]) -> tuple[list[_R], _Unusable | None]:
    """What `act` gave, or why another checkpoint may be tried."""
    try:
        return [act()], None
    except (CheckpointCorruptError, CheckpointNotFoundError) as error:
        return [], error


def _failure(error: BaseException) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"}


def _complaint(unusable: _Unusable | None) -> dict[str, Any]:
    if isinstance(unusable, CheckpointCorruptError):
        return {"damage": str(unusable), "kind": unusable.kind}
    return {"gone": str(unusable)} if unusable else {}
