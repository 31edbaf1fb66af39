"""Log aside: a log file whose disk is on a server, which may hang: a thread writes it, and no training waits for that.

Whoever writes waits until the operating system has it, as with any log file, but for `MOMENT` seconds only. What is
written from then on is kept in memory, `MOST` texts of it, and comes to its place once the disk goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from asyncckpt.run.log_file import LogFile
from asyncckpt.storage import bounded
from asyncckpt.storage.daemons import within

logger = logging.getLogger("asyncckpt")

MOMENT = 1.0
"""Seconds; a server that answers at all does so sooner."""
MOST = 10_000


class _Text(NamedTuple):
    text: str
    missing: int
    """Bytes that were written before it, and not kept."""
    writing: threading.Lock
    """Held until it is written. No `Event`: a signal handler that comes within its `wait` keeps the thread from it."""


class LogAside(LogFile):
    """See `LogFile`; `close` gives up what the disk has not taken after a minute."""

    def __init__(self, path: Path, limit: int, rotated: Callable[[Path], None] | None = None) -> None:
        super().__init__(path, limit, rotated)
        self._texts: SimpleQueue[_Text | None] = SimpleQueue()
        self._missing = 0
        self._hangs = self._was_told = self._is_over = False
        self._thread = threading.Thread(target=self._write_all, name="asyncckpt-log-write", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        super()._renew()
        # Reentrant, and never taken by the thread: a signal handler may print, and wait for that, while we are in it.
        self._keeping = threading.RLock()

    def write(self, text: str) -> None:
        """Append `text`, now or later."""
        if os.getpid() != self._process:  # where there is no such thread
            self._write_in_child(text)
        elif text and (kept := self._keep(text)) is not None and not self._is_left(threading.current_thread()):
            self._await(kept)

    def _is_left(self, thread: threading.Thread) -> bool:
        """Whether that does not wait; what the one that writes has to say of the file, it writes next."""
        return self._hangs or thread is self._thread

    def _write_in_child(self, text: str) -> None:
        try:
            within(MOMENT, lambda: super(LogAside, self).write(text))
        except TimeoutError as error:
            self._lose(len(text), error)

    def _keep(self, text: str) -> _Text | None:
        with self._keeping:
            if self._is_over or sys.is_finalizing():  # then threads are run no more
                return None
            if self._texts.qsize() >= MOST:
                self._missing += len(text.encode("utf-8", "backslashreplace"))
                return None
            kept = _Text(text, self._missing, threading.Lock())
            kept.writing.acquire()
            self._missing = 0
            self._texts.put(kept)
            return kept

    def _await(self, kept: _Text) -> None:
        if kept.writing.acquire(timeout=MOMENT):
            return
        self._hangs = True
        if not kept.writing.locked():  # and maybe nothing is to be written any more, which would say that it goes on
            self._hangs = False
        if not self._was_told:
            self._was_told = True
            waited = f"{self.path} cannot be written: its disk, or its server, has not gone on for {MOMENT:g} s"
            logger.warning("%s; training goes on, and what is printed meanwhile comes there once it does", waited)

    def _write_all(self) -> None:
        while (kept := self._texts.get()) is not None:
            self._write_one(kept)
        super().close()

    def _write_one(self, kept: _Text) -> None:
        if kept.missing:
            self._lost, self._why = self._lost + kept.missing, "the disk hung, and it was too much to keep"
        super().write(kept.text)
        kept.writing.release()
        if self._texts.empty():
            self._hangs = False

    def close(self) -> None:
        """Take nothing more, and wait for what is to be written and compressed, a minute at most."""
        with self._keeping:
            if self._is_over:
                return
            self._is_over = True
            self._texts.put(None)
        # In a child there is no such thread, and the file stays open: a write of its own may hang.
        self._thread.join(bounded.HURRY if self._hangs else bounded.PATIENCE)
        if self._thread.is_alive():
            logger.warning("%s: its disk, or its server, hangs; what was printed last may be missing there", self.path)
