"""Mounts: which folders lie on a file system that other machines see too, as the system says it (on Linux)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from asyncckpt.storage.daemons import within

NETWORK = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "panfs", "wekafs", "cifs", "smb3"}
    | {"fuse.juicefs", "fuse.glusterfs", "fuse.ceph"}
)
"""Types of file systems on which what one machine has written, others read."""

TABLE = "/proc/self/mountinfo"
"""What is mounted where, for this process."""

LOOK = 5.0
"""Seconds after which nobody waits any more to hear where a link leads."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


def network(folder: str) -> str | None:
    """The type of the network file system that `folder`, or what there is of it, lies on; None for any other."""
    place = Path(real(folder))
    found = "", ""
    for point, kind in _mounts():
        # The longest, and of several on one another the last: that is the one that is seen.
        if place.is_relative_to(point) and len(point) >= len(found[0]):
            found = point, kind
    return found[1] if found[1] in NETWORK else None


def real(folder: str) -> str:
    """Where it is, links followed; as it is called where a disk that hangs keeps that from being known."""
    try:
        return within(LOOK, lambda: os.path.realpath(folder))
    except TimeoutError:
        return os.path.abspath(folder)


def _mounts() -> Iterator[tuple[str, str]]:
    """Mount points and types; none where the system does not say."""
    try:
        table = Path(TABLE).read_text(errors="surrogateescape")
    except OSError:
        return
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        yield _ESCAPED.sub(lambda match: chr(int(match[1], 8)), point), after.split()[0]
