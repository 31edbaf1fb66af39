"""The ladder: which way of creating exclusively holds on the file system of one root, found out by trying."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from asyncckpt.storage.files import Files
from asyncckpt.storage.folders import Folders
from asyncckpt.storage.publish import RUNGS, Draft, Replacing, temporary
from asyncckpt.storage.reasons import UNSUPPORTED, named

_REFUSED = UNSUPPORTED | {errno.EPERM, errno.EACCES, errno.ENOENT, errno.EISDIR, errno.EXDEV, errno.EMLINK}
"""Errors that say a rung does not hold here; any other, such as no space, says nothing about the rung."""

_RACES = 3


class Ladder:
    """The best rung that holds for one root; methods block and raise OSError."""

    def __init__(self, files: Files, folders: Folders, fallbacks: dict[str, str]) -> None:
        self._files = files
        self._folders = folders
        self._fallbacks = fallbacks
        self._lock = threading.Lock()
        self._tried = False
        self._best: type[Draft] | None = None

    @property
    def known(self) -> type[Draft] | None:
        """What `best` has found already, without a call that blocks; None before that, too."""
        return self._best

    def best(self) -> type[Draft] | None:
        """The kind of draft to create with; None where no create is exclusive. Leaves nothing behind."""
        with self._lock:
            if not self._tried:
                self._best = self._climb()
                self._tried = True
            return self._best

    def _climb(self) -> type[Draft] | None:
        # Held to the end: it proves that the root can be written, and keeps a neighbour's probe, when that
        # tidies up, from removing the root under ours.
        anchor = Replacing(self._files, self._target())
        made = self._folders.make(self._folders.root)
        try:
            self._folders.within(self._folders.root, anchor.open)
            return self._first_that_holds()
        finally:
            anchor.discard()
            for folder in reversed(made):
                with suppress(OSError):
                    self._files.rmdir(folder)

    def _first_that_holds(self) -> type[Draft] | None:
        reasons: list[str] = []
        for rung in RUNGS:
            reason = self._refusal(rung)
            if reason is None:
                self._record(rung.weakness, reasons)
                return rung
            reasons.append(f"{rung.__name__}: {reason}")
        self._record("creates are not exclusive here", reasons)
        return None

    def _record(self, weakness: str, reasons: list[str]) -> None:
        if weakness:
            self._fallbacks["publish"] = f"{weakness} ({', '.join(reasons)})"

    def _refusal(self, rung: type[Draft]) -> str | None:
        """Why creates cannot use this rung; None if they can."""
        try:
            if not self._second_fails(rung):
                return "a second create succeeded"
            if not all(self._one_wins(rung) for _ in range(_RACES)):
                return "two creates at once succeeded"
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            return named(error)
        return None

    def _second_fails(self, rung: type[Draft]) -> bool:
        target = self._target()
        try:
            return self._create(rung, target) and not self._create(rung, target)
        finally:
            self._remove(target)

    def _one_wins(self, rung: type[Draft]) -> bool:
        target = self._target()
        start = threading.Barrier(2)

        def attempt(_: int) -> bool:
            start.wait()
            return self._create(rung, target)

        try:
            with ThreadPoolExecutor(2, thread_name_prefix="asyncckpt-probe") as racers:
                try:
                    return sum(racers.map(attempt, range(2))) == 1
                except RuntimeError as error:  # no thread to be had for the second: the first waits for it
                    start.abort()
                    raise OSError(errno.EAGAIN, str(error)) from error
        finally:
            self._remove(target)

    def _create(self, rung: type[Draft], target: str) -> bool:
        draft = rung(self._files, target)
        try:
            draft.open()
            draft.publish()
        except FileExistsError:
            return False
        finally:
            draft.discard()
        return True

    def _target(self) -> str:
        return temporary(os.path.join(self._folders.root, "probe"))

    def _remove(self, path: str) -> None:
        with suppress(OSError):
            self._files.unlink(path)
