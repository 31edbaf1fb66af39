"""Growing: a journal that is read again and again, of which only what is new is read and decoded.

A file of it only grows, at its end; one that was replaced is known by what stands before the new, and read from its
beginning.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from dataclasses import dataclass, field
from pathlib import Path

from asyncckpt.errors import ObjectNotFound
from asyncckpt.metrics_log.reading import is_of
from asyncckpt.metrics_log.rows import Row, decode
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage
from asyncckpt.storage.reasons import translated

_KNOWN = 64
"""Bytes before the new ones that are read again, to see whether they are still what they were."""


@dataclass
class _File:
    """One file, as far as it was read: whole lines, and what stands behind the last of them."""

    length: int = 0
    read: int = 0
    before: bytes = b""
    latest: str = ""
    rows: list[tuple[str, Row]] = field(default_factory=list)
    bad: int = 0
    rest: tuple[list[tuple[str, Row]], int] = field(default_factory=lambda: ([], 0))

    def add(self, data: bytes) -> None:
        """Take up what comes after all that was read."""
        end = data.rfind(b"\n") + 1
        whole, rest = data[:end], data[end:]
        rows, bad, self.latest = _decoded(whole, self.latest)
        self.rows += rows
        self.bad += bad
        self.read += end
        self.before = (self.before + whole)[-_KNOWN:]
        found, broken, _ = _decoded(rest, self.latest)
        self.rest = found, broken


class Growing:
    """The journal `stem` in `storage`; `rows` by their time, and how many lines are `bad`, as of the last look."""

    def __init__(self, storage: Storage, stem: str) -> None:
        self.rows: list[Row] = []
        self.bad = 0
        self._storage = storage
        self._stem = stem
        self._files: dict[str, _File] = {}

    async def look(self) -> bool:
        """Read what is new, and say whether anything was. Raises `StorageError`; then nothing counts as read."""
        lengths = await self._lengths()
        changed = [name for name, length in lengths.items() if self._length(name) != length]
        if not changed and self._files.keys() == lengths.keys():
            return False
        self._files = {name: file for name, file in self._files.items() if name in lengths}
        for name in changed:
            await self._grown(name, lengths[name])
        await asyncio.to_thread(self._merge)
        return True

    def _length(self, name: str) -> int:
        return self._files[name].length if name in self._files else -1

    async def _grown(self, name: str, length: int) -> None:
        file = self._files.get(name, _File())
        start = file.read - len(file.before)
        data = await self._bytes(name, start, length) if length >= file.read else b""
        if not data.startswith(file.before) or length < file.read:
            file, start = _File(), 0
            data = await self._bytes(name, 0, length)
        await asyncio.to_thread(file.add, data[len(file.before) :])
        file.length = length
        self._files[name] = file

    def _merge(self) -> None:
        timed = [[*file.rows, *file.rest[0]] for _, file in sorted(self._files.items())]
        self.rows = [row for _, row in heapq.merge(*timed, key=lambda each: each[0])]
        self.bad = sum(file.bad + file.rest[1] for file in self._files.values())

    # -- where it lies: on disks a folder may be called what no key can be -----------------------------------

    async def _lengths(self) -> dict[str, int]:
        if isinstance(self._storage, LocalStorage):
            return await asyncio.to_thread(_lengths, Path(self._storage.url, self._stem))
        return {info.key: info.length async for info in self._storage.list(self._stem) if is_of(self._stem, info.key)}

    async def _bytes(self, name: str, start: int, end: int) -> bytes:
        if isinstance(self._storage, LocalStorage):
            return await asyncio.to_thread(_bytes, Path(self._storage.url, name), start, end)
        try:
            return bytes(await self._storage.get(name, start=start, length=end - start))
        except ObjectNotFound:
            return b""  # its run was begun anew: the next look sees what is there then


def _lengths(place: Path) -> dict[str, int]:
    with translated(str(place.parent)):
        if not place.parent.is_dir():
            return {}
        with os.scandir(place.parent) as found:
            return {entry.path: entry.stat().st_size for entry in found if is_of(place.name, entry.name)}


def _bytes(path: Path, start: int, end: int) -> bytes:
    with translated(str(path)), path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _decoded(data: bytes, latest: str) -> tuple[list[tuple[str, Row]], int, str]:
    """Rows, each with the time by which it is sorted (within a file the clock may have gone back), and bad lines."""
    rows, bad = [], 0
    *lines, last = data.split(b"\n")
    for line in [*lines, last] if last else lines:
        try:
            row = decode(line)
        except (ValueError, RecursionError):
            bad += 1
            continue
        latest = max(latest, row.timestamp)
        rows.append((latest, row))
    return rows, bad, latest
