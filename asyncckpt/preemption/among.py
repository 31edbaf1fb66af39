"""Among ranks: a notice that only one of them was given reaches rank 0, which decides when all of them stop."""

from __future__ import annotations

import time

from asyncckpt.preemption.notice import Notice, Notices
from asyncckpt.worker.ranks import NOTICE_KEY, Ranks

PERIOD = 0.1
"""Seconds between two looks: of the time that is left, so much is lost on the way, at most, each time."""


class AmongRanks:
    """A source: on rank 0 it hears of the others' notices, on the others it passes theirs on."""

    name = "ranks"
    period = PERIOD

    def __init__(self, ranks: Ranks, notices: Notices) -> None:
        self._ranks = ranks
        self._notices = notices
        self._told: Notice | None = None

    def look(self, grace: float) -> None:
        """See `Source.look`: what is heard is given with the name of who gave it first."""
        if self._ranks.rank == 0:
            self._hear()
        elif (notice := self._notices.first) is not None and notice != self._told:
            self._told = notice
            said = {"source": notice.source, "signum": notice.signum, "left": notice.left}
            self._ranks.tell(NOTICE_KEY, said)

    def _hear(self) -> None:
        if self._told is None and (said := self._ranks.peek(NOTICE_KEY)) is not None:
            deadline = time.monotonic() + said["left"] - PERIOD
            self._told = Notice(said["source"], deadline, said["signum"])
            self._notices.give(self._told)
