"""Prefault: arenas faulted in and page-locked ahead of their use, in threads that give way to training."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from asyncckpt.events import Fallback, Listeners
from asyncckpt.staging.arena import Arena

NICE = 10
"""By how much it gives way: at the same priority it took 2-4 ms of CPU from the call of the first save."""


class Prefault:
    """What is being faulted in for one checkpointer; `pin` page-locks an arena for a kind of device."""

    def __init__(self, pin: Callable[[Arena, str], None], listeners: Listeners) -> None:
        self._pin = pin
        self._listeners = listeners
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._has_told = False

    def start(self, arenas: Sequence[Arena], kinds: Collection[str]) -> None:
        """Fault `arenas` in, in a thread of their own: the copier, which a step may wait for, is not held up.

        They are page-locked for devices of all `kinds`.
        """
        if not arenas:
            return
        # No daemon: at the interpreter's end that would be stopped within torch's C++, which ends the process.
        thread = threading.Thread(
            target=self._run, args=(tuple(arenas), tuple(kinds)), name="asyncckpt-prefault", daemon=False
        )
        try:
            thread.start()
        except RuntimeError as error:  # no thread to be had: the copies fault them in, slower
            self._listeners.emit(Fallback("prefault", f"staging memory is not faulted in ahead of its use: {error}"))
        else:
            self._threads = [*(t for t in self._threads if t.is_alive()), thread]

    def close(self) -> None:
        """Stop, and return once no arena is touched any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, arenas: Sequence[Arena], kinds: Sequence[str]) -> None:
        if sys.platform == "linux":  # elsewhere it would be the whole process
            with suppress(OSError):
                os.nice(NICE)
        for arena in arenas:
            arena.prefault(self._stop)
            for kind in kinds:
                if not self._stop.is_set():
                    self._pin(arena, kind)
        for arena in arenas if not kinds else ():  # what is page-locked stays as it is
            arena.collapse_rest(self._stop)
        self._tell(next((arena.small_pages for arena in arenas if arena.small_pages), ""))

    def _tell(self, refusal: str) -> None:
        if refusal and not self._has_told:
            self._has_told = True
            reason = f"staging memory is in small pages, slower to copy, digest and write: {refusal}"
            self._listeners.emit(Fallback("huge pages", reason))
