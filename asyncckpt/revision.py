"""Code version: the commit of the user's repository, and whether files differ from it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "unknown"

PATIENCE = 5.0
"""Seconds that git may take in all: a repository on a network disk that hangs must not hold a training up."""


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """The first 8 digits of the commit's hash, or ``unknown``; `dirty` where tracked files differ from the commit."""

    hash: str
    dirty: bool = False

    def __str__(self) -> str:
        return f"{self.hash}-dirty" if self.dirty else self.hash

    def known(self) -> str | None:
        """This as text; None where it is unknown."""
        return None if self.hash == UNKNOWN else str(self)


def code_version(folder: str | os.PathLike[str] | None = None) -> CodeVersion:
    """The version of the repository that `folder` is in, by default the one of the program that runs.

    Outside of a repository, without git, or where it takes longer than `PATIENCE`, it is ``unknown``. Never raises.
    """
    return _version([Path(folder)] if folder is not None else _likely())


def _version(places: Iterable[Path]) -> CodeVersion:
    end = time.monotonic() + PATIENCE
    for place in places:
        commit = _git(place, end, "rev-parse", "--verify", "--quiet", "HEAD")
        if commit:
            # A status that could not be had is not clean: better one mark too many than a promise.
            changes = _git(place, end, "status", "--porcelain", "--untracked-files=no")
            return CodeVersion(commit.strip()[:8], changes is None or bool(changes.strip()))
    return CodeVersion(UNKNOWN)


class Lookup:
    """The version of the program that runs, for whoever can wait: git is asked once, when that is wanted first."""

    def __init__(self) -> None:
        self._places = _likely()  # as of now: a training may go to another folder
        self._lock = threading.Lock()
        self._found: CodeVersion | None = None

    def known(self) -> str | None:
        """See `CodeVersion.known`; takes as long as `code_version`."""
        with self._lock:
            if self._found is None:
                self._found = _version(self._places)
            return self._found.known()


def _likely() -> list[Path]:
    """Where the user's code is: the folder of the program, else where it was started."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    found = [Path(program).resolve().parent] if program else []
    with suppress(OSError):  # it is there no more
        found.append(Path.cwd())
    return found


def _git(folder: Path, end: float, *arguments: str) -> str | None:
    """What git prints, or None where it fails or does not answer in time."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            # Locks would be in the way of a commit that the user makes right now.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(end - time.monotonic(), 0.01),
            check=True,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout
