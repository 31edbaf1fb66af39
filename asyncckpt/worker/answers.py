"""Answers: how a save ended, told to listeners, to the other ranks and to whoever waits for it."""

from __future__ import annotations

from asyncckpt.clock import Clock
from asyncckpt.errors import SaveSkipped, SaveSuperseded
from asyncckpt.events import Durable, Failed, Listeners
from asyncckpt.format.record import Record
from asyncckpt.worker.attempt import Attempt
from asyncckpt.worker.commitlog.aftermath import discard
from asyncckpt.worker.job import Committed, Declined, Rejected
from asyncckpt.worker.ranks import Ranks, attempt_key, verdict_key
from asyncckpt.worker.root import Root


class Answers:
    """Of the saves that one service takes to `root`."""

    def __init__(self, root: Root, listeners: Listeners, clock: Clock, ranks: Ranks) -> None:
        self._root = root
        self._listeners = listeners
        self._clock = clock
        self._ranks = ranks

    def durable(self, attempt: Attempt, record: Record, written: int, rested: float) -> None:
        """`record` has committed it; `written` bytes were put for that, with `rested` seconds of rest."""
        job, checkpoint = attempt.ticket.job, record.checkpoint
        if checkpoint is None:
            return
        now = self._clock.time()
        seconds, metrics, phases = now - job.created / 1e6, dict(checkpoint.metrics), attempt.phases.end()
        self._listeners.emit(
            Durable(
                *(job.step, checkpoint.seq, checkpoint.size, seconds, now, metrics, written, phases, rested),
                *(checkpoint.partial, checkpoint.epoch, checkpoint.message),
            )
        )
        # Told before the handle ends: who has waited for it finds the save in the metrics.
        attempt.ticket.reply(Committed(record))
        if self._ranks.world > 1:
            self._ranks.tell(verdict_key(job.ordinal), {"record": record.encode().decode("ascii")})

    async def failed(self, attempt: Attempt, error: Exception) -> None:
        """It is not in the root, and nothing that was put there from memory stays."""
        ticket = attempt.ticket
        ticket.watermark.leave()
        self._root.tell_of_store()
        garbage = attempt.directory if attempt.is_in_root and not attempt.may_be_recorded(error) else None
        if garbage is not None:
            await discard(garbage, self._root.storage, self._listeners)
        said: dict[str, str | bool] = {"error": f"{type(error).__name__}: {error}", "discarded": garbage is not None}
        if isinstance(error, SaveSkipped | SaveSuperseded):  # the training gave it up, which is no failure
            said["skipped"] = str(error)
        else:
            self._listeners.emit(Failed(ticket.job.step, attempt.phases.now, error))
        key = (verdict_key if attempt.announced else attempt_key)(ticket.job.ordinal)
        self._ranks.tell(key, said)
        ticket.reply(Rejected(attempt.phases.now, error))

    def passed(self, attempt: Attempt, by_step: int) -> None:
        """It stays where it is: the save of `by_step` goes to the root in its place."""
        if self._ranks.world > 1:
            self._ranks.tell(verdict_key(attempt.ticket.job.ordinal), {"declined": {"by_step": by_step}})
        attempt.ticket.reply(Declined(by_step))
