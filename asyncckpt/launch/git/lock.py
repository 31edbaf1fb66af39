"""Lock: one at a time on one work tree, over threads and processes; who holds it may take it again."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from asyncckpt.errors import GitOperationError

PATIENCE = 60.0
"""Seconds that somebody else is waited for."""

_PAUSE = 0.05


@dataclass
class _Held:
    """The lock of one work tree, in this process."""

    among_threads: threading.RLock = field(default_factory=threading.RLock)
    file: FileIO | None = None
    times: int = 0


_locks: dict[Path, _Held] = {}
_making = threading.Lock()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock that is the file at `path`; raises `GitOperationError` where others keep it for `PATIENCE`."""
    with _making:
        held = _locks.setdefault(path, _Held())
    end = time.monotonic() + PATIENCE
    if not held.among_threads.acquire(timeout=PATIENCE):
        raise _refusal(path)
    try:
        if held.file is None:
            held.file = _taken(path, end)
        held.times += 1
        try:
            yield
        finally:
            held.times -= 1
            if not held.times:
                _let_go(held.file)
                held.file.close()
                held.file = None
    finally:
        held.among_threads.release()


def _taken(path: Path, end: float) -> FileIO:
    """The file, locked by this process; the system unlocks it if the process dies."""
    file = FileIO(str(path), "ab")
    try:
        while not _is_ours(file):
            if time.monotonic() > end:
                raise _refusal(path)
            time.sleep(_PAUSE)
    except BaseException:
        file.close()
        raise
    return file


if sys.platform == "win32":
    import msvcrt

    def _is_ours(file: FileIO) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _let_go(file: FileIO) -> None:
        """Closing it is enough."""
else:
    import fcntl

    def _is_ours(file: FileIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _let_go(file: FileIO) -> None:
        """A process that was forked meanwhile has it open too, and closing it here alone would leave it locked."""
        fcntl.flock(file, fcntl.LOCK_UN)


def _refusal(path: Path) -> GitOperationError:
    return GitOperationError(f"another thread or process has worked on this repository for {PATIENCE:g} s ({path})")
