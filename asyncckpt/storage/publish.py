"""Publishing: a draft is a file that nobody sees under its key until it is whole and synced.

Overwriting renames over the old file. Creating must fail where the key is taken, and file systems differ in what
they offer for that: ``RUNGS`` has the ways, best first, and ``ladder`` finds out which one holds.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from typing import ClassVar

from asyncckpt.storage.base import Exclusive
from asyncckpt.storage.files import Files

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp-([a-z0-9._-]+)")


def temporary(target: str) -> str:
    """A fresh hidden name beside `target`, from which `meant_for` recovers the target's name."""
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{secrets.token_hex(8)}.tmp-{meant_for(name) or name}")


def meant_for(name: str) -> str | None:
    """The name that a temporary would have got; None for a name that is not a temporary's."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


class Draft:
    """A file being written: `open`, write to `descriptor`, sync it, `publish`; in any case `discard`.

    Methods block and raise OSError. `discard` removes what is not published and never raises.
    """

    gives: ClassVar[Exclusive] = "whole"
    weakness: ClassVar[str] = ""

    def __init__(self, files: Files, target: str) -> None:
        self._files = files
        self.target = target
        self.descriptor = -1
        self._unpublished: str | None = None

    def open(self) -> None:
        self._create(temporary(self.target))

    def publish(self) -> None:
        raise NotImplementedError

    def discard(self) -> None:
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            if self._unpublished is not None:
                self._files.unlink(self._unpublished)

    def _create(self, path: str) -> None:
        self.descriptor = self._files.create(path)
        self._unpublished = path

    def _path(self) -> str:
        if self._unpublished is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.target)
        return self._unpublished

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            self._files.close(descriptor)


class Replacing(Draft):
    """Takes the place of whatever has the name."""

    def publish(self) -> None:
        self._close()  # Windows renames no open file
        self._files.replace(self._path(), self.target)
        self._unpublished = None


class Unnamed(Draft):
    """O_TMPFILE, then its one link: a crash leaves nothing behind."""

    def open(self) -> None:
        self.descriptor = self._files.create_unnamed(os.path.dirname(self.target))

    def publish(self) -> None:
        self._files.link_unnamed(self.descriptor, self.target)
        self._close()


class Linked(Draft):
    """A temporary file that gets the target as its second name."""

    def publish(self) -> None:
        self._close()
        path = self._path()
        try:
            self._files.link(path, self.target)
        except OSError:
            # Over NFS the reply may get lost and the repeated request find our own link: the count tells.
            if self._links(path) != 2:
                raise
        self._unpublished = None
        with suppress(OSError):
            self._files.unlink(path)

    def _links(self, path: str) -> int:
        try:
            return self._files.look(path).st_nlink
        except OSError:
            return 0


class Renamed(Draft):
    """A temporary file renamed by a call that refuses to replace."""

    weakness = "hard links are refused, so creates rename without replacing"

    def publish(self) -> None:
        self._close()
        self._files.rename(self._path(), self.target)
        self._unpublished = None


class Claimed(Draft):
    """Renamed over an empty file that claims the name: exclusive, but until then, or after a crash, readers see that.

    A claim whose temporary is gone can never be completed. So it is not taken back either when that fails: whoever
    removed the temporary counts on the name being taken.
    """

    gives = "torn"
    weakness = (
        "neither hard links nor exclusive renames work, so creates claim a name first; a crash may leave it empty"
    )

    def publish(self) -> None:
        self._close()
        self._files.close(self._files.create(self.target))
        self._files.replace(self._path(), self.target)
        self._unpublished = None


RUNGS: tuple[type[Draft], ...] = (Unnamed, Linked, Renamed, Claimed)
