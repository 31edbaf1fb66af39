"""Placing: bytes read straight into live memory, each digest checked while the piece is in the processor's cache.

Touching fresh memory for the first time costs several times as much as reading cached bytes into memory that is there
already. Where live memory must not change before all of a checkpoint is known to be right, everything is read twice:
first through a small room, for nothing but its digests (`Places.check`); then, out of the page cache if that holds it,
into its place. What comes between the two readings does not go unnoticed.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from asyncckpt.checkpoints.damage import readable
from asyncckpt.fetching.reading import check_digest
from asyncckpt.format.contents import Extent, Pack, Path
from asyncckpt.format.digest import digesting
from asyncckpt.storage.base import Opened, Opening
from asyncckpt.storage.live import Waiting

_CHUNK = 1 << 20
"""Bytes of one read: few enough to be in the processor's cache when they are digested."""

_THREADS = min(4, os.cpu_count() or 1)
"""More than there are cores made cold reads slower; four saturate the disks measured."""

_PACKS = 64
"""Most packs that are kept open: increments may lie in hundreds, and a process has perhaps a thousand descriptors."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one tensor belong, and the extents that hold them in order."""

    memory: memoryview
    extents: tuple[Extent, ...]
    owner: object
    """Keeps the memory alive."""

    def take(self, at: int, room: Any, start: int, length: int) -> None:
        """Copy what is in a `asyncckpt.fetching.arriving.Room`, see `asyncckpt.fetching.arriving.Destination`."""
        self.memory[at : at + length] = room.memory[start : start + length]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One extent, and its part of the place of the tensor at `path`."""

    path: Path
    extent: Extent
    memory: memoryview


class Places:
    """Reads tensors of one checkpoint, which lies in `packs`, into `places`: all that do not need too many packs.

    `progress` is told the bytes of each extent that was read, from several threads.
    """

    def __init__(
        self,
        storage: Opening,
        url: str,
        packs: Sequence[Pack],
        places: Mapping[Path, Place],
        progress: Callable[[int], None] = lambda nbytes: None,
    ) -> None:
        self._progress = progress
        self._storage = storage
        self._url = url
        self._packs = packs
        self._opened: dict[int, Opened] = {}
        # Also when nobody comes to `close` it: a checkpoint that another rank found damaged is only dropped.
        self._let_go = weakref.finalize(self, _close, self._opened)
        self._numbers: set[int] = set()
        self._places = {path: place for path, place in places.items() if self._admits(place)}

    @property
    def paths(self) -> set[Path]:
        """The tensors that are."""
        return set(self._places)

    def open(self) -> None:
        """Open the packs until `close`, so that no deletion can come before what is read later.

        Raises as `asyncckpt.fetching.reading.fetch` does.
        """
        for number in self._numbers:
            with readable(self._what(number)):
                self._opened[number] = self._storage.open(self._packs[number].key)

    def check(self) -> None:
        """Read everything, after `open`, and change nothing; raises as `asyncckpt.fetching.reading.fetch` does."""
        rooms: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(_THREADS):
            rooms.put(memoryview(bytearray(_CHUNK)))

        def check(piece: _Piece) -> None:
            room = rooms.get()
            try:
                self._read(piece, lambda at, size: room[:size])
            finally:
                rooms.put(room)

        self._each(check, self._pieces(()))

    def fill(self, part: Path) -> None:
        """Read what belongs to `part` of the state into its places, after `open`.

        Raises as `asyncckpt.fetching.reading.fetch` does: then the part is changed, but not wholly.
        """
        self._each(lambda piece: self._read(piece, lambda at, size: piece.memory[at : at + size]), self._pieces(part))

    def _each(self, act: Callable[[_Piece], None], pieces: Iterable[_Piece]) -> None:
        """`act` on each in several threads; they have ended when this returns or raises, or nobody waits for them."""
        if not (todo := list(pieces)):
            return
        if isinstance(self._storage, Waiting):
            self._storage.each(f"get {self._packs[todo[0].extent.pack].key}", act, todo)
            return
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncckpt-place") as pool:
            for _ in pool.map(act, todo):
                pass

    def close(self) -> None:
        """Let the packs go; again does nothing."""
        self._let_go()

    def _admits(self, place: Place) -> bool:
        numbers = self._numbers | {extent.pack for extent in place.extents}
        if len(numbers) > _PACKS:
            return False
        self._numbers = numbers
        return True

    def _pieces(self, part: Path) -> Iterator[_Piece]:
        for path, place in self._places.items():
            if path[: len(part)] == part:
                at = 0
                for extent in place.extents:
                    yield _Piece(path, extent, place.memory[at : at + extent.length])
                    at += extent.length

    def _read(self, piece: _Piece, room: Callable[[int, int], memoryview]) -> None:
        """Read one extent into what `room` gives for each offset and size, and check its digest."""
        extent, found = piece.extent, digesting()
        what = self._what(extent.pack)
        with readable(what):
            for at in range(0, extent.length, _CHUNK):
                into = room(at, min(_CHUNK, extent.length - at))
                self._opened[extent.pack].fill(into, extent.offset + at)
                found.update(into)
        check_digest(found.hexdigest(), what, piece.path, extent)
        self._progress(extent.length)

    def _what(self, number: int) -> str:
        return f"{self._url}/{self._packs[number].key}"


def _close(opened: Mapping[int, Opened]) -> None:
    for each in opened.values():
        each.close()
