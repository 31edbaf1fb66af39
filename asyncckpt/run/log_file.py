"""Log file: what was written is in the operating system's hands when the call returns, so that no crash loses it.

It never raises. Where the disk is full it says so once, and goes on when there is room again, with a line that says
how much is missing. When it has grown past its limit it goes on in a new file; the old one gets a number and is
compressed in the background.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("asyncckpt")

_open: weakref.WeakSet[LogFile] = weakref.WeakSet()


class LogFile:
    """Appends to `path`, which must not exist; raises `OSError` if it cannot be made.

    After `limit` bytes a file is closed at the end of a line, and called ``NAME.1.log.gz``, ``NAME.2.log.gz`` and so
    on; `rotated` is told of each, on the thread that compresses.
    """

    def __init__(self, path: Path, limit: int, rotated: Callable[[Path], None] | None = None) -> None:
        self.path = path
        self._limit = limit
        self._rotated = rotated
        self._descriptor = _created(path)
        self._process = os.getpid()
        self._size = 0
        self._parts = 0
        self._lost = 0
        self._is_line_begun = False
        self._why = ""
        self._renew()
        self._compressing: list[threading.Thread] = []
        _open.add(self)

    def _renew(self) -> None:
        # Reentrant: a signal handler may print while this thread is here.
        self._lock = threading.RLock()

    def write(self, text: str) -> None:
        """Append `text`."""
        if not text:
            return
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._descriptor < 0:
                return
            try:
                if os.getpid() != self._process:
                    self._append_in_child(data)
                    return
                if self._size >= self._limit and not self._is_line_begun:
                    self._rotate()
                self._append(data)
            except OSError as error:
                self._lose(len(data), error)

    def _append_in_child(self, data: bytes) -> None:
        # A child that was forked has the file that was there then, which may be compressed and gone by now.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def _append(self, data: bytes) -> None:
        if self._lost:
            note = f"[{self._lost} bytes of output or more are missing here: {self._why}]\n"
            self._write(note.encode())
            self._lost = 0
        self._write(data)
        self._is_line_begun = not data.endswith(b"\n")

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            count = os.write(self._descriptor, left)
            self._size += count
            left = left[count:]

    def _lose(self, count: int, error: OSError) -> None:
        is_first = not self._lost
        self._lost += count
        self._why = error.strerror or str(error)
        if is_first:  # said to whoever listens; what of it comes back here is lost as well
            logger.warning("%s cannot be written (%s): training goes on without it", self.path, self._why)

    def _rotate(self) -> None:
        """Go on in a new file; where that cannot be had, in the old one."""
        old = self.path.with_name(f"{self.path.stem}.{self._parts + 1}.log")
        try:
            self.path.rename(old)
            new = _created(self.path)
        except OSError as error:
            with suppress(OSError):
                if old.exists() and not self.path.exists():
                    old.rename(self.path)
            self._limit += self._limit  # later, perhaps
            logger.warning("%s grows past its limit: no new file is to be had (%s)", self.path, error)
            return
        os.close(self._descriptor)
        self._descriptor, self._size, self._parts = new, 0, self._parts + 1
        self._compressing = [thread for thread in self._compressing if thread.is_alive()]
        thread = threading.Thread(target=self._compress, args=(old,), name="asyncckpt-log", daemon=True)
        self._compressing.append(thread)
        thread.start()

    def _compress(self, old: Path) -> None:
        try:
            found = compressed(old)
        except OSError as error:
            logger.warning("%s stays as large as it is: it cannot be compressed (%s)", old, error)
            found = old
        if self._rotated is not None:
            self._rotated(found)

    def close(self) -> None:
        """Take nothing more, and wait for what is being compressed."""
        with self._lock:
            if self._descriptor < 0:
                return
            os.close(self._descriptor)
            self._descriptor = -1
        if os.getpid() == self._process:
            for thread in self._compressing:
                thread.join()


def compressed(old: Path) -> Path:
    """Put ``NAME.gz`` in the place of `old`; there is one or the other at any time. Raises `OSError`."""
    new, draft = old.with_name(f"{old.name}.gz"), old.with_name(f".{old.name}.gz.draft")
    try:
        with old.open("rb") as source, gzip.open(draft, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        with draft.open("rb+") as target:
            os.fsync(target.fileno())
        draft.replace(new)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    old.unlink()
    return new


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)


def _in_child() -> None:
    # The thread that held a lock is not in the child.
    for file in list(_open):
        file._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
