"""Consensus: all ranks go on from the same checkpoint, or none does.

Rank 0 chooses, and proposes one checkpoint after the other. A proposal stands once every rank has read its part,
found every digest right and seen that it fits; only then does any rank touch its objects. What each rank says on
its own of a run in which somebody saves meanwhile might be the latest of two different moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError, RankMissing, RestoreError
from asyncckpt.format.record import Checkpoint, checkpoint_json, checkpoint_of
from asyncckpt.restoring import SHARED, Loaded, check_world, own_scope
from asyncckpt.worker.listening import Listening, wait
from asyncckpt.worker.ranks import Ranks, at_work, tell

_Unusable: TypeAlias = CheckpointCorruptError | CheckpointNotFoundError
"""Why one checkpoint does not stand, while another may."""


class Consensus:
    """One ``resume()`` or ``restore()``: `number` counts them, equally on all ranks; `call` is what the user called.

    `load` reads this rank's part of a checkpoint, by its scopes, and raises if it does not fit.
    """

    def __init__(self, ranks: Ranks, number: int, call: str, load: Callable[[Checkpoint, list[str]], Loaded]) -> None:
        self._ranks = ranks
        self._number = number
        self._call = call
        self._load = load
        self._proposals = 0

    @property
    def is_led_here(self) -> bool:
        """Whether it is this rank that chooses."""
        return self._ranks.rank == 0

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Around everything: the others see that this rank is at work, and rank 0's failure reaches them."""
        with at_work(self._ranks, self._key()):
            try:
                yield
            except BaseException as error:
                if self.is_led_here:
                    tell(self._ranks, self._key("error"), _failure(error))
                raise

    # -- rank 0 --------------------------------------------------------------------------------------------

    def propose(self, checkpoint: Checkpoint) -> Loaded:
        """Read a checkpoint on all ranks; once this returns, every rank will put its part back.

        Raises `CheckpointCorruptError` or `CheckpointNotFoundError` if any rank found it so: then another may be
        proposed. Raises `RestoreError` if a rank failed for a reason of its own.
        """
        check_world(checkpoint, self._ranks.world)
        proposal, self._proposals = self._proposals, self._proposals + 1
        self._say(proposal, "choice", {"call": self._call, "checkpoint": checkpoint_json(checkpoint)})
        loaded, unusable = self._try(checkpoint)
        unusable = self._others(proposal) or unusable
        self._say(proposal, "verdict", {"stands": unusable is None})
        if loaded is None or unusable is not None:
            raise unusable or RestoreError("nothing was read")
        return loaded

    def give_up(self) -> None:
        """There is no checkpoint to take, and that is no failure."""
        self._say(self._proposals, "choice", {"call": self._call, "checkpoint": None})

    def _others(self, proposal: int) -> _Unusable | None:
        """Hear how all other ranks have read; raises `RestoreError` if one failed for a reason of its own."""
        found: _Unusable | None = None
        for rank in range(1, self._ranks.world):
            said = self._fetch(rank, self._key(proposal, "read", rank))
            if "error" in said:
                raise RestoreError(f"rank {rank} could not {self._what}: {said['error']}")
            if "damage" in said:
                found = CheckpointCorruptError(f"rank {rank}: {said['damage']}", said["kind"])
            elif "gone" in said:
                found = found or CheckpointNotFoundError(f"rank {rank}: {said['gone']}")
        return found

    # -- every other rank ----------------------------------------------------------------------------------

    def follow(self) -> Loaded | None:
        """Read what rank 0 proposes until a proposal stands; None if there is nothing to take."""
        proposal = 0
        while True:
            choice = self._hear(proposal, "choice")
            self._check_call(choice["call"], proposal)
            if choice["checkpoint"] is None:
                return None
            loaded = self._read(checkpoint_of(choice["checkpoint"]), proposal)
            if self._hear(proposal, "verdict")["stands"]:
                return loaded
            proposal += 1

    def _check_call(self, call: str, proposal: int) -> None:
        """Refuse, for rank 0 to hear, to take part in something else than was called here."""
        if call != self._call:
            error = RestoreError(f"rank 0 called {call}, and rank {self._ranks.rank} {self._call}")
            tell(self._ranks, self._key(proposal, "read", self._ranks.rank), _failure(error))
            raise error

    def _read(self, checkpoint: Checkpoint, proposal: int) -> Loaded | None:
        """Read this rank's part of what rank 0 proposed, and tell how that went."""
        key = self._key(proposal, "read", self._ranks.rank)
        try:
            loaded, unusable = self._try(checkpoint)
        except BaseException as error:
            tell(self._ranks, key, _failure(error))
            raise
        tell(self._ranks, key, _complaint(unusable))
        return loaded

    def _hear(self, proposal: int, what: str) -> dict[str, Any]:
        """What rank 0 says next; raises `RestoreError` if that is that it failed."""
        said = self._fetch(0, self._key(proposal, what), self._key("error"))
        if "error" in said:
            raise RestoreError(f"rank 0 could not {self._what}: {said['error']}")
        return said

    # -- every rank ----------------------------------------------------------------------------------------

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

    def _try(self, checkpoint: Checkpoint) -> tuple[Loaded | None, _Unusable | None]:
        scopes = [SHARED] if self._ranks.world == 1 else [SHARED, own_scope(self._ranks.rank)]
        try:
            return self._load(checkpoint, scopes), None
        except (CheckpointCorruptError, CheckpointNotFoundError) as error:
            return None, error

    def _say(self, proposal: int, what: str, value: dict[str, Any]) -> None:
        tell(self._ranks, self._key(proposal, what), value)

    def _fetch(self, rank: int, *keys: str) -> dict[str, Any]:
        hint = f": either it is gone, or it does not call {self._call} as this rank does"
        word = f"answer in {self._call}"
        try:
            return wait(Listening(self._ranks, rank, keys, word, task=self._key(), hint=hint))
        except RankMissing as error:
            raise RestoreError(str(error)) from error

    @property
    def _what(self) -> str:
        return self._call.partition("(")[0]

    def _key(self, *parts: object) -> str:
        return "/".join(map(str, ("consensus", self._number, *parts)))


def _failure(error: BaseException) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"}


def _complaint(unusable: _Unusable | None) -> dict[str, Any]:
    if isinstance(unusable, CheckpointCorruptError):
        return {"damage": str(unusable), "kind": unusable.kind}
    return {"gone": str(unusable)} if unusable else {}
