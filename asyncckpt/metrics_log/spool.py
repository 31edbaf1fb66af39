"""Spool: rows for a store that cannot append wait in a local file, and go there in parts.

The file is what outlives the process: rows that a killed one had not brought away are brought by the next that logs to
the same URL on this machine. Parts are cut by length alone, so that whoever brings a file away writes the same objects.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from asyncckpt.metrics_log.lines import Lines, try_lines
from asyncckpt.storage.base import Storage

PART = 1 << 20
"""Bytes after which a part ends; until then, its object is written anew each time."""


class Spool:
    """The local file of one session that logs to `storage`, under names that begin with `stem`."""

    def __init__(self, storage: Storage, stem: str) -> None:
        self._storage = storage
        self._stem = stem
        session = f"{stem}-{time.strftime('%Y%m%dt%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
        self._path = _folder(storage.url) / f"{session}.jsonl"
        self._lines: Lines | None = None
        self._start = 0
        self._number = 1

    def open(self) -> Lines:
        """The file, for this session alone. Raises `OSError`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = try_lines(self._path)
        if self._lines is None:
            raise FileExistsError(f"{self._path}: another process writes it")
        return self._lines

    def ship(self) -> None:
        """Bring what is new to the store, after what ended sessions have left. Raises `StorageError`, `OSError`."""
        for path in sorted(self._path.parent.glob(f"{self._stem}-*.jsonl")):
            if path != self._path:
                self._adopt(path)
        self._start, self._number = self._put(self._path, self._start, self._number)

    def _adopt(self, path: Path) -> None:
        left = try_lines(path)
        if left is None:
            return  # its session lives
        try:
            self._put(path, 0, 1)
        finally:
            left.close()
        path.unlink(missing_ok=True)

    def _put(self, path: Path, start: int, number: int) -> tuple[int, int]:
        """Put the parts of `path` from `start` on; where the last one begins, and its number."""
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        last = start, number
        for length, part in _parts(data):
            last = start, number
            key = f"{path.stem}.{number:04}.jsonl"
            asyncio.run(_put(self._storage, key, part))
            start, number = start + length, number + 1
        return last

    def finish(self) -> None:
        """All of it is in the store: the local file is not needed any more."""
        if self._lines is not None:
            self._lines.close()
            with suppress(OSError):
                self._path.unlink()
                self._path.parent.rmdir()


async def _put(storage: Storage, key: str, part: bytes) -> None:
    await storage.put(key, [part])


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while (end := data.find(b"\n", start + PART) + 1) > 0:
        yield end - start, data[start:end]
        start = end
    end = data.rfind(b"\n", start) + 1
    if end > start:
        yield end - start, data[start:end]


def _folder(url: str) -> Path:
    """Where rows for `url` wait: the same folder for every process of this user."""
    given = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        caches = Path(given) if given else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        caches = Path(tempfile.gettempdir())
    return caches / "asyncckpt" / "rows" / hashlib.sha256(url.encode()).hexdigest()[:16]
