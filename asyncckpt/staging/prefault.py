"""Prefault: arenas faulted in ahead of their use, in threads that give way to training."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from asyncckpt.staging.arena import Arena

logger = logging.getLogger("asyncckpt")

NICE = 10
"""By how much it gives way: at the same priority it took 2-4 ms of CPU from the call of the first save."""


class Prefault:
    """What is being faulted in for one checkpointer."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, arenas: Sequence[Arena]) -> None:
        """Fault `arenas` in, in a thread of their own: the copier, which a step may wait for, is not held up."""
        if not arenas:
            return
        # No daemon: at the interpreter's end that would be stopped within torch's C++, which ends the process.
        thread = threading.Thread(target=self._run, args=(tuple(arenas),), name="asyncckpt-prefault", daemon=False)
        try:
            thread.start()
        except RuntimeError as error:  # no thread to be had: the copies fault them in, slower
            logger.warning("staging memory is not faulted in ahead of its use: %s", error)
        else:
            self._threads = [*(t for t in self._threads if t.is_alive()), thread]

    def close(self) -> None:
        """Stop, and return once no arena is touched any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, arenas: Sequence[Arena]) -> None:
        if sys.platform == "linux":  # elsewhere it would be the whole process
            with suppress(OSError):
                os.nice(NICE)
        for arena in arenas:
            arena.prefault(self._stop)
