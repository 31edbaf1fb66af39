"""Journal: where rows are written, a local folder and any other store alike, and what happens when that fails.

`write` returns when the row is in a file, so that no kill of the process can lose it, and never waits for a store; a
second later it is safe from a power loss too, or a few seconds later in the bucket. It never raises: what cannot be
written waits in memory, which is said once, and is written as soon as that works.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from asyncckpt.errors import StorageError
from asyncckpt.metrics_log.behind import Behind
from asyncckpt.metrics_log.lines import Lines, open_lines
from asyncckpt.metrics_log.spool import Spool
from asyncckpt.storage import LocalStorage, opened
from asyncckpt.storage.base import Storage

logger = logging.getLogger("asyncckpt")

SYNCED = 1.0
"""Seconds until a row in a local folder is safe from a power loss."""
SHIPPED = 5.0
"""Seconds until a row is in a store that is no local folder."""
WAITING = 10_000
"""Rows that are kept in memory while they cannot be written; older ones are lost, and counted."""
AGAIN = 1.0
"""Seconds from one try to write what waits to the next."""
CLOSING = 60.0


class Journal:
    """Appends to ``{stem}.jsonl`` in `folder`, a path, a URL or an open storage; `lost` rows could not be kept.

    Nothing is created before the first row.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | Storage, stem: str, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        self.storage = opened(folder, storage_options)
        self._is_ours = self.storage is not folder
        self.lost = 0
        self._stem = stem
        self._lock = threading.Lock()
        self._lines: Lines | None = None
        is_local = isinstance(self.storage, LocalStorage)
        self._spool = None if is_local else Spool(self.storage, stem)
        self._behind = Behind(f"asyncckpt-{stem}", self._settle, SYNCED if is_local else SHIPPED)
        self._waiting: deque[bytes] = deque()
        self._is_closed = False
        self._is_late = False
        self._is_away = False
        self._again = 0.0

    @property
    def place(self) -> str:
        """Where it writes, for people."""
        return f"{self.storage.url.rstrip('/')}/{self._stem}.jsonl"

    def write(self, line: bytes) -> None:
        """Append one line. Raises `ValueError` once it is closed, and nothing else."""
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self.place} is closed")
            self._waiting.append(line)
            if len(self._waiting) > WAITING:
                self._waiting.popleft()
                self.lost += 1
            if self._is_late and time.monotonic() < self._again:
                return  # each try takes as long as there are rows that wait
            self._try()

    def _try(self) -> None:
        try:
            self._append()
        except OSError as error:
            self._again = time.monotonic() + AGAIN
            self._say_late(error)
        else:
            self._behind.changed()

    def _append(self) -> None:
        if self._lines is None:
            self._lines = self._open()
        self._lines.append(b"".join(self._waiting))
        self._waiting.clear()
        if self._is_late:
            self._is_late = False
            lost = f"; {self.lost} rows are lost" if self.lost else ""
            logger.warning("%s is written again%s", self.place, lost)

    def _open(self) -> Lines:
        found = open_lines(Path(self.storage.url), self._stem) if self._spool is None else self._spool.open()
        if found.torn:
            logger.warning("%s: a crash had left half a row at its end, which is cut off: %r", found.path, found.torn)
        if self._spool is not None:
            getattr(threading, "_register_atexit", atexit.register)(self.close)  # while threads can still be started
        return found

    def _say_late(self, error: OSError) -> None:
        if not self._is_late:
            self._is_late = True
            message = "%s cannot be written (%s); training goes on, and rows wait in memory until it can"
            logger.warning(message, self.place, error)

    def _settle(self) -> bool:
        try:
            if self._spool is not None:
                self._spool.ship()
            elif self._lines is not None:
                self._lines.sync()
        except (StorageError, OSError) as error:
            if not self._is_away:
                self._is_away = True
                logger.warning("%s: rows are not safe yet, they will be tried again (%s)", self.place, error)
            return False
        self._is_away = False
        return True

    def flush(self, timeout: float | None = CLOSING) -> bool:
        """Have every row made durable, or brought to the store; whether that was done within `timeout` seconds."""
        with self._lock:
            if self._waiting:
                self._try()
        is_done = self._behind.settle(timeout) and not self._is_away
        return is_done and not self._waiting

    def close(self, timeout: float | None = CLOSING) -> None:
        """As `flush`; what is left then is named. Harmless when repeated."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._waiting:
                self._try()
        is_done = self._behind.close(timeout) and not self._is_away
        if self._waiting:
            logger.warning("%s: %d rows could not be written and are lost", self.place, len(self._waiting))
        if self._lines is not None:
            self._leave(self._lines, is_done=is_done)
        if self._is_ours and is_done:
            with ThreadPoolExecutor(1) as thread:  # the caller may be on an event loop, as a notebook is
                thread.submit(asyncio.run, self.storage.aclose()).result()

    def _leave(self, lines: Lines, *, is_done: bool) -> None:
        if self._spool is None:
            lines.close()
        elif is_done:
            self._spool.finish()
        else:
            message = "%s: not all rows are in the store; they wait in %s for the next session on this machine"
            logger.warning(message, self.place, lines.path)
