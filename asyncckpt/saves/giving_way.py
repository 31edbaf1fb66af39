"""Giving way: what is under way and gives way to a newer save, for its memory or for the time that there is."""

from __future__ import annotations

import logging

from asyncckpt.saves.answering import Answering
from asyncckpt.saves.outcomes import Outcomes
from asyncckpt.saves.queued import Queued
from asyncckpt.saves.urgency import Urgency
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.ranks import Ranks, attempt_key, save_task

logger = logging.getLogger("asyncckpt")


class GivingWay:
    """Of the saves of one checkpointer, for the training thread. What is given up is never listed: see `Abandoning`."""

    def __init__(
        self, queued: Queued, answering: Answering, executor: Executor, outcomes: Outcomes, ranks: Ranks
    ) -> None:
        self._queued = queued
        self._answering = answering
        self._executor = executor
        self._outcomes = outcomes
        self._ranks = ranks

    def supersede(self, step: int, *, replaceable: bool) -> bool:
        """Take the newest save (that is `replaceable`) out of the queue, if the worker has not begun it."""
        for old in self._queued.newest_first(replaceable=replaceable):
            if old.withdraw(self._executor.withdraw):
                self._queued.remove(old.job.id)
                self._ranks.end(save_task(old.job.ordinal))
                try:
                    old.snapshot.cancel(step)
                finally:  # an interrupt too: the worker will never answer for what was taken back
                    old.snapshot.release()
                    self._ranks.tell(attempt_key(old.job.ordinal), {"declined": {"by_step": step}})
                    self._outcomes.let_go(old.handle, step)
                return True
        return False

    def make(self, step: int, urgency: Urgency) -> None:
        """Before the emergency at `step`: what matters less than that gives way, as it was decided."""
        if self._ranks.rank != 0:
            if urgency.gives_up:
                self._executor.hurry()  # rank 0 decides, but this rank must not be what holds it up
            return
        while urgency.takes_over and self.supersede(step, replaceable=False):
            pass
        # What could not be taken back and is not in flight has been begun, and the worker has not said so yet.
        given_up = {hand.job.id for hand in self._queued.newest_first(replaceable=False) if urgency.takes_over}
        if urgency.gives_up:
            given_up |= self._answering.begun.keys()  # noted there before it leaves the queue
        for job in given_up:
            self._give_up(job, step)

    def for_memory(self, step: int) -> None:
        """The emergency at `step` has waited for memory for as long as there was time: whoever keeps it gives way."""
        logger.warning(
            "step %d has waited for memory for as long as there was time: what is under way is given up for it", step
        )
        self.make(step, Urgency(takes_over=True, gives_up=True))

    def _give_up(self, job: str, step: int) -> None:
        self._answering.given_up(job, step)
        self._executor.abandon(job, step)
