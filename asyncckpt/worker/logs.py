"""Log: one file per worker process. It is its standard error, and by the lock on it others see that it lives.

The lock is on the open file that the worker was started with, so that it goes with the worker however that ends. The
first line says whose worker it is. A file that holds nothing else is removed when its worker has ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from asyncckpt.format.digest import digest

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

Trainer: TypeAlias = tuple[int, int | None]
"""The number of a process, and when it was started."""

FOLDER = "ASYNCCKPT_RUNTIME_DIR"
"""The environment variable that says where logs lie; without it that is a folder of the user's in the temporary one."""

_KEPT = 5
"""Logs of ended workers of one root that are left for people."""


@dataclass(frozen=True, slots=True)
class Log:
    """The log of a worker that is about to start: its path, and the locked descriptor to hand over."""

    path: Path
    descriptor: int


def folder() -> Path:
    """Where logs lie."""
    given = os.environ.get(FOLDER)
    return Path(given) if given else Path(tempfile.gettempdir(), f"asyncckpt-{os.getuid()}")


def _made() -> Path:
    """The folder, made if it is not there; raises `OSError` where another user could change what is in it."""
    path = folder()
    path.mkdir(mode=0o700, parents=FOLDER in os.environ, exist_ok=True)
    if not _is_trusted(path):
        raise PermissionError(f"{path} is not a folder that only this user can write to: set {FOLDER} to one that is")
    return path


def _is_trusted(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


@contextmanager
def begun(root: str) -> Iterator[Log]:
    """A new log for a worker of this process in `root`; within the context its descriptor is open here too."""
    where = _made()
    name = f"{_prefix(root)}{secrets.token_hex(4)}.log"
    draft = where / f".{name}"
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    try:
        _lock(descriptor)
        os.write(descriptor, _header(root))
        draft.rename(where / name)  # only now: without the lock it would look like one that has been left
        yield Log(where / name, descriptor)
    finally:
        os.close(descriptor)


def said(log: Path) -> str:
    """The last line that a worker wrote, or nothing."""
    with suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()[1:]
        return lines[-1] if lines else ""
    return ""


def remove_if_silent(log: Path) -> None:
    """Remove the log of a worker that has nothing to say."""
    with suppress(OSError):
        if len(log.read_bytes().splitlines()) <= 1:
            log.unlink()


def orphans(root: str, *, but: Path | None = None, family: Collection[Trainer] = ()) -> list[Path]:
    """The logs of living workers of `root` on this machine whose trainers are dead and not of the `family`; `but` one.

    What earlier ones have left is tidied up.
    """
    ended: list[Path] = []
    found: list[Path] = []
    where = folder()
    if not (where.is_dir() and _is_trusted(where)):
        return []
    for log in sorted(where.glob(f"{_prefix(root)}*.log")):
        if log != but:
            with suppress(FileNotFoundError):
                if not _is_locked(log):
                    ended.append(log)
                elif not (_is_trainer_alive(log) or _trainer_of(log) in family):
                    found.append(log)
    _tidy(ended)
    return found


def has_worker(root: str, trainer: int, start: int | None) -> bool:
    """Whether a worker of that trainer in `root` lives; blocks for as long as reading a few small files takes."""
    for log in folder().glob(f"{_prefix(root)}*.log"):
        with suppress(FileNotFoundError):
            if _trainer_of(log) == (trainer, start) and _is_locked(log):
                return True
    return False


def _tidy(ended: list[Path]) -> None:
    for log in ended:
        remove_if_silent(log)
    with suppress(OSError):
        left = sorted((log for log in ended if log.exists()), key=lambda log: log.stat().st_mtime)
        for log in left[:-_KEPT]:
            log.unlink()


def _prefix(root: str) -> str:
    """The same for every path that leads to a folder, through whatever links; of a URL nothing is known but itself."""
    place = os.path.realpath(root) if os.path.isabs(root) else root
    return f"{digest(place.encode())[:16]}-"


def _header(root: str) -> bytes:
    trainer = os.getpid()
    return json.dumps({"root": root, "trainer": trainer, "started": started(trainer)}).encode() + b"\n"


def _lock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(log: Path) -> bool:
    descriptor = os.open(log, os.O_RDONLY)
    try:
        _lock(descriptor)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_trainer_alive(log: Path) -> bool:
    return is_running(*_trainer_of(log))


def _trainer_of(log: Path) -> Trainer:
    with log.open("rb") as lines:
        header = json.loads(lines.readline())
    return header["trainer"], header["started"]


def is_running(pid: int, start: int | None) -> bool:
    """Whether the process with this number, which was started at `start`, is there still."""
    return start is not None and started(pid) == start


def started(pid: int) -> int | None:
    """When the process with this number was started, in ticks since boot: the number alone is used again."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = status.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])
