"""Leaving: how the job is marked, counted and put back, and with which status this process ends."""

from __future__ import annotations

import atexit
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable

from asyncckpt.preemption.requeue import scontrol, slurm_job
from asyncckpt.preemption.settings import Preemption
from asyncckpt.preemption.tracker import mark_preempting

logger = logging.getLogger("asyncckpt")

EXCEEDED = 1
"""The exit status of a run that was preempted more often than it may be: nothing shall start it again by itself."""

_LONGEST = 1.0
"""Seconds that a tracker is waited for, at most."""


_COLLECTING = 3.0
"""Seconds within which the interpreter may not be done with its last garbage, of all that torch has imported."""


class Leaving:
    """Of one process, once it was told to leave; `count` counts this preemption and says how many there were by now.

    Counting and marking go on beside the save. It ends before `killed_at`, by the monotonic clock. `is_leader`: the
    other ranks only end.
    """

    def __init__(self, settings: Preemption, count: Callable[[], int], killed_at: float, *, is_leader: bool) -> None:
        self._settings = settings
        atexit.register(_hasten, killed_at)
        self._count = count
        self._counted: int | None = None
        self._is_leader = is_leader
        self._marking = mark_preempting() if is_leader else None
        self._counting: threading.Thread | None = None
        if is_leader and settings.max_preemptions is not None:
            self._counting = threading.Thread(target=self._count_up, name="asyncckpt-tally", daemon=True)
            self._counting.start()

    def _count_up(self) -> None:
        try:
            self._counted = self._count()
        except Exception as error:  # of the store, or of a service that ends: it is in nobody's way
            logger.error("how often this run was preempted could not be counted: %s", error)

    @property
    def is_exceeded(self) -> bool:
        """Whether the run was preempted more often than it may be, as far as that is known by now."""
        most = self._settings.max_preemptions
        return most is not None and self._counted is not None and self._counted > most

    def settle(self, seconds: float) -> None:
        """Wait for what goes on beside the save for so many seconds at most: a store may hang, or a service."""
        end = time.monotonic() + seconds
        if self._counting is not None:
            self._counting.join(max(0.0, end - time.monotonic()))
        if self._marking is not None:
            self._marking.join(max(0.0, min(end - time.monotonic(), _LONGEST)))

    def requeue(self, timeout: float, *, is_others: bool) -> None:
        """Put the job back within `timeout` seconds, if this process is to, and nobody else does (`is_others`)."""
        if self.is_exceeded:
            most = self._settings.max_preemptions
            logger.error("preemption number %s, and max_preemptions=%s: the job is not put back", self._counted, most)
            return
        wanted = self._settings.requeue
        if self._is_leader and (wanted == "scontrol" or (wanted == "auto" and slurm_job() and not is_others)):
            scontrol(timeout)

    def code(self, signum: int) -> int:
        """The exit status."""
        if self.is_exceeded:
            return EXCEEDED
        if self._settings.exit_code is not None:
            return self._settings.exit_code
        return 128 + (signum or signal.SIGTERM)


def _hasten(killed_at: float) -> None:
    """At exit: look for no garbage where the process would be killed meanwhile, which finalizes nothing either."""
    if killed_at - time.monotonic() < _COLLECTING:
        gc.freeze()
