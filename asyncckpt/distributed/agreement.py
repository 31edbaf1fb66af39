"""Agreement: what clocks and metrics say differs from rank to rank, so rank 0 decides and the others hear it."""

from __future__ import annotations

from collections.abc import Callable

from asyncckpt.errors import RankMissing, SaveFailed
from asyncckpt.worker.ranks import Ranks, due_key, tell


class Agreement:
    """Decisions, numbered in the order of the calls: a step number may come again after a ``resume``."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._number = 0

    def decide(self, step: int, own: Callable[[], bool]) -> bool:
        """Rank 0's ``own()`` decision, on all ranks; `step` is what it is about.

        On the other ranks it blocks until rank 0 gets there. Raises `RankMissing` if that takes longer than the
        deadline, and `SaveFailed` if rank 0 raised, or is at another step.
        """
        return self._lead(step, own) if self._ranks.rank == 0 else self._follow(step)

    def _lead(self, step: int, own: Callable[[], bool]) -> bool:
        self._number += 1
        try:
            due = own()
        except BaseException as error:
            tell(self._ranks, due_key(self._number), {"error": f"{type(error).__name__}: {error}"})
            raise
        tell(self._ranks, due_key(self._number), {"due": due, "step": step})
        return due

    def _follow(self, step: int) -> bool:
        try:
            said = self._ranks.fetch_any((due_key(self._number + 1),), self._ranks.deadline)
            self._number += 1  # only now: who calls again after a deadline asks for the same decision
        except (TimeoutError, ConnectionError) as error:
            raise RankMissing(f"rank 0 did not say whether step {step} is to be saved: {error}", [0]) from error
        if "error" in said:
            raise SaveFailed(f"rank 0 could not decide whether step {step} is to be saved: {said['error']}")
        if said["step"] != step:
            raise SaveFailed(
                f"rank {self._ranks.rank} is at step {step} and rank 0 at step {said['step']}: call step() and "
                "epoch_end() on every rank, for the same steps in the same order"
            )
        return bool(said["due"])
