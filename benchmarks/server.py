"""Server: the S3 server (SeaweedFS) of one run, on this machine, for every system that takes its turn.

Its data is in memory where there is room: the clients are measured, and not its disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncckpt.testing.s3server import S3Server

_MEMORY = Path("/dev/shm")  # noqa: S108 -- a folder of its own is made in it


@contextmanager
def served(scratch: Path, room: int) -> Iterator[S3Server]:
    """A server with room for `room` bytes, which ends with all that it has."""
    is_roomy = _MEMORY.is_dir() and min(shutil.disk_usage(_MEMORY).free, _available()) > room
    with (
        tempfile.TemporaryDirectory(dir=_MEMORY if is_roomy else scratch, prefix="bench-") as folder,
        S3Server(Path(folder) / "server") as server,
    ):
        yield server


def _available() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
