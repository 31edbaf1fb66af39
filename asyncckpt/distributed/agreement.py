"""Agreement: what clocks and metrics say differs from rank to rank, so rank 0 decides and the others hear it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from asyncckpt.distributed.counts import Counts
from asyncckpt.errors import SaveFailed
from asyncckpt.worker.listening import Listening, wait
from asyncckpt.worker.ranks import DUE_KEY, STEP_TASK, Ranks

NOTABLE = 64
"""Decisions to save that rank 0 still tells: what a rank may be behind it, in saves."""


Due: TypeAlias = bool | dict[str, Any]
"""Whether something is due; what else the ranks have to know of it, as JSON."""


class Agreement:
    """Decisions, numbered in the order of the calls: a step number may come again after a ``resume``.

    Rank 0 tells them under one key, the newest in full and of those before it the few that were not "no".
    """

    def __init__(self, ranks: Ranks, counts: Counts) -> None:
        self._ranks = ranks
        self._counts = counts
        self._missed: int | None = None
        self._notable: list[dict[str, Any]] = []

    def decide(self, step: int, own: Callable[[], Due]) -> Due:
        """Rank 0's ``own()`` decision, on all ranks; `step` is what it is about.

        On the other ranks it blocks until rank 0 gets there. Raises `RankMissing` if that takes longer than the
        deadline, and `SaveFailed` if rank 0 raised, or is at another step.
        """
        return self._lead(step, own) if self._ranks.rank == 0 else self._follow(step)

    def _lead(self, step: int, own: Callable[[], Due]) -> Due:
        try:
            due = own()
        except BaseException as error:
            self._say({"step": step, "error": f"{type(error).__name__}: {error}"})
            raise
        self._say({"step": step, "due": due})
        return due

    def _say(self, decision: dict[str, Any]) -> None:
        self._counts.decisions += 1
        numbered = {"number": self._counts.decisions, **decision}
        self._ranks.tell(DUE_KEY, {"newest": numbered, "notable": self._notable})
        if numbered.get("due", True):
            self._notable = [*self._notable, numbered][-NOTABLE:]

    def _follow(self, step: int) -> Due:
        if self._missed not in (None, step):
            self._counts.decisions += 1  # who gave up on a step and goes on with the next one counts that as well
        self._missed = step
        said = wait(
            Listening(
                self._ranks,
                0,
                (DUE_KEY,),
                f"decision whether to save step {step}",
                task=STEP_TASK,
                concerns=lambda said: bool(said["newest"]["number"] > self._counts.decisions),
                hint=": either it is gone, or it does not call step() and epoch_end() as this rank does",
            )
        )
        self._missed = None
        self._counts.decisions += 1
        decision = self._find(said)
        if "error" in decision:
            raise SaveFailed(f"rank 0 could not decide whether step {step} is to be saved: {decision['error']}")
        if decision["step"] not in (step, None):
            raise SaveFailed(
                f"rank {self._ranks.rank} is at step {step} and rank 0 at step {decision['step']}: call step() and "
                "epoch_end() on every rank, for the same steps in the same order"
            )
        due: Due = decision["due"]
        return due

    def _find(self, said: dict[str, Any]) -> dict[str, Any]:
        """The decision that this rank has come to now; those that were "no" are told as long as they are the newest."""
        told: list[dict[str, Any]] = [*said["notable"], said["newest"]]
        if len(told) > NOTABLE and self._counts.decisions < told[0]["number"]:
            raise SaveFailed(
                f"rank {self._ranks.rank} is more than {NOTABLE} saves behind rank 0: what rank 0 decided is not known "
                "any more"
            )
        mine = (decision for decision in told if decision["number"] == self._counts.decisions)
        return next(mine, {"step": None, "due": False})
