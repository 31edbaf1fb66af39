"""Log: one file for each start of a run, with all that its console showed.

The first start writes ``logs/training_{timestamp}.log``, the N-th that goes on with the run
``logs/training_resume_{N}_{timestamp}.log``. In a folder they are written in place, by a thread where its disk is on
a server. In an object store, which cannot append, they are written to a temporary folder on this machine, and brought
to the store every few seconds.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from asyncckpt.errors import AsyncCkptError
from asyncckpt.run.console import Console
from asyncckpt.run.files import Files
from asyncckpt.run.log_aside import LogAside
from asyncckpt.run.log_file import LogFile
from asyncckpt.storage import LocalStorage, mounts
from asyncckpt.storage.base import Storage

logger = logging.getLogger("asyncckpt")

FOLDER = "logs"

_RESUMED = re.compile(r"training_resume_(\d+)_.*")
_EVERY = 10.0
_SHARE = 20
"""What a log takes to be brought away must be at most this part of the time between two of them."""


class Log:
    """The log of one start: from `begin` on it has what the console shows, until `close`."""

    def __init__(self, file: LogFile, shipping: Shipping | None) -> None:
        self.path = file.path
        self._file = file
        self._shipping = shipping
        self._console = Console(file.write)
        self._console.begin()

    def note(self, text: str) -> None:
        """A line for the log alone."""
        self._file.write(f"{text}\n")

    def left_by(self, error: BaseException) -> None:
        """The exception that ends the training; the console shows it later, when nobody listens any more."""
        if isinstance(error, SystemExit):
            self.note(f"the training leaves: {error}")
        else:
            self._file.write("".join(traceback.format_exception(error)))

    def close(self) -> None:
        """Let the console alone; what was written is in its place then."""
        self._console.end()
        self._file.close()
        if self._shipping is not None:
            self._shipping.close()


def log_of(files: Files, limit: int, *, resumed: bool, now: datetime) -> Log | None:
    """Begin the log of a start; None where it cannot be had, which is one line of the log and no error."""
    try:
        if isinstance(files.storage, LocalStorage):
            folder = Path(files.storage.url, FOLDER)

            def begun() -> LogFile:
                folder.mkdir(exist_ok=True)
                return _begun(folder, os.listdir(folder), limit, None, resumed=resumed, now=now)

            return Log(files.waited("a log", begun, undo=LogFile.close), None)
        names = files.do(_names)
        folder = Path(tempfile.mkdtemp(prefix="asyncckpt-logs-"))
        shipping = Shipping(files, folder)
        file = _begun(folder, names, limit, shipping, resumed=resumed, now=now)
        shipping.begin(file.path)
        return Log(file, shipping)
    except (OSError, AsyncCkptError) as error:
        logger.warning("there is no log of this training: %s; training goes on without one", error)
        return None


async def _names(storage: Storage) -> list[str]:
    return [info.key.removeprefix(f"{FOLDER}/") async for info in storage.list(f"{FOLDER}/")]


def _begun(
    folder: Path, names: Iterable[str], limit: int, shipping: Shipping | None, *, resumed: bool, now: datetime
) -> LogFile:
    """The file, in the first second that no other log has: two starts in one second have a log each."""
    kind = LogFile if mounts.network(os.fspath(folder)) is None else LogAside
    taken = set(names)
    while True:
        path = folder / log_name(taken, now, resumed=resumed)
        now += timedelta(seconds=1)
        if path.name not in taken:
            try:
                return kind(path, limit, None if shipping is None else shipping.bring)
            except FileExistsError:
                taken.add(path.name)


def log_name(names: Iterable[str], now: datetime, *, resumed: bool) -> str:
    """What the next log beside those `names` is called; numbers only rise, also where a log was deleted."""
    if not resumed:
        return f"training_{now:%Y%m%d_%H%M%S}.log"
    numbers = [int(found[1]) for name in names if (found := _RESUMED.fullmatch(name))]
    return f"training_resume_{max(numbers, default=0) + 1}_{now:%Y%m%d_%H%M%S}.log"


class Shipping:
    """Brings the log in `folder` to the store, again and again, and at the end for the last time."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._files = files
        self._folder = folder
        self._path: Path | None = None
        self._brought = -1
        self._has_failed = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="asyncckpt-log-shipping", daemon=True)

    def begin(self, path: Path) -> None:
        """Bring what is at `path` from now on."""
        self._path = path
        self._thread.start()

    def _go_on(self) -> None:
        pause = _EVERY
        while not self._is_over.wait(pause):
            began = time.monotonic()
            self._bring_current()
            pause = max(_EVERY, _SHARE * (time.monotonic() - began))

    def _bring_current(self) -> bool:
        if self._path is None:
            return True
        try:
            size = self._path.stat().st_size
        except OSError:  # it is just being rotated
            return False
        if size != self._brought and self._put(self._path):
            self._brought = size
        return size == self._brought

    def bring(self, path: Path) -> None:
        """Bring a file that is complete, and remove it here."""
        if self._put(path):
            path.unlink(missing_ok=True)

    def _put(self, path: Path) -> bool:
        try:
            self._files.put(f"{FOLDER}/{path.name}", path.read_bytes())
        except (OSError, AsyncCkptError, RuntimeError) as error:
            if not self._has_failed:
                self._has_failed = True
                logger.warning(
                    "the log cannot be brought to %s (%s); it is in %s", self._files.storage.url, error, self._folder
                )
            return False
        self._has_failed = False
        return True

    def close(self) -> None:
        """Bring the rest; what could not be brought stays on this machine."""
        self._is_over.set()
        self._thread.join()
        if self._bring_current() and self._path is not None:
            self._path.unlink(missing_ok=True)
        if not os.listdir(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            sys.stderr.write(f"asyncckpt: the log of this training is in {self._folder}\n")
