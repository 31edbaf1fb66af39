"""Arriving: bytes that come from a store in ranged requests, each to where it belongs, each fetched once.

Extents that lie side by side in a pack are one request, whatever they belong to, and what is long is cut: so a request
is neither tiny nor huge. Several are under way at once, and are dealt with in the order of the pack, so that a digest
goes on from one to the next. A request whose bytes all belong to one tensor in host memory is read into that, and where
the store can do it, one whose bytes belong to several into each of them; any other into a room, and from there to where
its bytes belong, which takes as long as receiving them: so what is long begins a request of its own. There are a few
rooms, and they are used again: beside what it restores, a restore takes no more memory than they are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from asyncckpt.checkpoints.damage import readable
from asyncckpt.fetching.reading import GAP, check_digest
from asyncckpt.fetching.unpacking import fill
from asyncckpt.format.contents import Extent, Pack, Path
from asyncckpt.format.digest import digesting
from asyncckpt.storage.base import Scattering, Storage
from asyncckpt.storage.room import room
from asyncckpt.storage.threads import settled

PIECE = 8 << 20
"""Bytes of one request at most, which may need a room."""

SCATTERED = 16 << 20
"""Bytes of one request at most that is read to where its bytes belong: no room bounds it, and each takes a while."""

LEAST = 1 << 20
"""Bytes from which a part of such a request may be: fewer are copied in less time."""

IN_FLIGHT = 6
"""Requests at once: of a store on the same machine four take nearly all that the client can; each may need a room."""


class Room(Protocol):
    """`PIECE` bytes of memory that a request is read into."""

    @property
    def memory(self) -> memoryview: ...


class Rooms(Protocol):
    """Rooms to be used again and again; one thread at a time."""

    def lend(self) -> Room:
        """One whose bytes nobody needs any more; waits for that where all are in use still."""
        ...

    def give_back(self, room: Room) -> None:
        """Take one back, whose bytes may be on their way out of it still."""
        ...


class Destination(Protocol):
    """Where the bytes of one tensor belong."""

    @property
    def extents(self) -> tuple[Extent, ...]:
        """What holds them, in order."""
        ...

    @property
    def memory(self) -> memoryview | None:
        """Where they can be read to at once, or None."""
        ...

    def take(self, at: int, room: Room, start: int, length: int) -> None:
        """Bring `length` bytes, from `start` in `room`, to byte `at`; may return before that is done."""
        ...


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of one extent that one request fetches: from `start` of the request to byte `at` of the tensor."""

    path: Path
    extent: Extent
    at: int
    start: int
    length: int
    is_last: bool
    """Whether the extent ends with it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A range of one pack."""

    pack: int
    start: int
    length: int
    slices: tuple[Slice, ...]
    is_scattered: bool = False
    """Whether each slice is read to where it belongs."""


def requests(places: Mapping[Path, Destination], *, scatters: bool = False) -> Iterator[Request]:
    """What fetches everything in `places`, by pack and in the order in which it lies there.

    With `scatters`, a request may be read into several of them.
    """
    slices: list[Slice] = []
    pack = first = end = -1
    is_scattered = False
    for path, extent, offset in _in_order(places):
        at = extent.offset
        if slices and extent.length >= PIECE and not is_scattered:
            yield Request(pack, first, end - first, tuple(slices))
            slices = []
        while at < extent.offset + extent.length:
            left = extent.offset + extent.length - at
            fits = scatters and left >= LEAST and places[path].memory is not None
            is_near = extent.pack == pack and 0 <= at - end <= (0 if fits else GAP)
            is_full = at - first >= (SCATTERED if fits else PIECE)
            if slices and (not is_near or is_full or fits != is_scattered):
                yield Request(pack, first, end - first, tuple(slices), is_scattered)
                slices = []
            if not slices:
                pack, first, is_scattered = extent.pack, at, fits
            size = min(left, first + (SCATTERED if fits else PIECE) - at)
            end = at + size
            is_last = end == extent.offset + extent.length
            slices.append(Slice(path, extent, offset + at - extent.offset, at - first, size, is_last))
            at = end
    if slices:
        yield Request(pack, first, end - first, tuple(slices), is_scattered)


def _in_order(places: Mapping[Path, Destination]) -> list[tuple[Path, Extent, int]]:
    """Every extent in the order of the packs, with its path and with its offset in the tensor."""
    found: list[tuple[Path, Extent, int]] = []
    for path, place in places.items():
        offset = 0
        for extent in place.extents:
            found.append((path, extent, offset))
            offset += extent.length
    return sorted(found, key=lambda each: (each[1].pack, each[1].offset))


class HostRooms:
    """Rooms in plain memory, whose bytes have left them when they are given back."""

    def __init__(self) -> None:
        self._free: list[Room] = []

    def lend(self) -> Room:
        """See `Rooms.lend`; more are never lent at once than there are requests at once."""
        return self._free.pop() if self._free else HostRoom(memoryview(room(PIECE)))

    def give_back(self, room: Room) -> None:
        """See `Rooms.give_back`."""
        self._free.append(room)


@dataclass(frozen=True, slots=True)
class HostRoom:
    """One of them."""

    memory: memoryview


@dataclass(slots=True)
class _UnderWay:
    request: Request
    room: Room | None
    pieces: Sequence[memoryview]
    """The memory of each slice."""
    arrival: asyncio.Task[None]


class Arrivals:
    """Brings the tensors of one checkpoint, which lies in `packs`, to their `places`, through `rooms`.

    `progress` is told the bytes of tensors in each request that was dealt with.
    """

    def __init__(
        self,
        storage: Storage,
        packs: Sequence[Pack],
        places: Mapping[Path, Destination],
        rooms: Rooms,
        progress: Callable[[int], None],
    ) -> None:
        self._storage = storage
        self._packs = packs
        self._places = places
        self._rooms = rooms
        self._progress = progress
        self._digest = digesting()
        # What is stored in frames is opened in memory of its own.
        self._scatters = isinstance(storage, Scattering) and all(pack.frames is None for pack in packs)

    async def fill(self, part: Path) -> None:
        """Fetch what belongs to `part` of the state; on devices it may be on its way still when this returns.

        Raises as `asyncckpt.fetching.reading.fetch` does: then the part is changed, but not wholly.
        """
        places = {path: place for path, place in self._places.items() if path[: len(part)] == part}
        under_way: deque[_UnderWay] = deque()
        self._digest = digesting()
        try:
            for request in requests(places, scatters=self._scatters):
                if len(under_way) == IN_FLIGHT:
                    await self._settle(under_way)
                under_way.append(await self._begun(request))
            while under_way:
                await self._settle(under_way)
        finally:  # nothing is left that would write into memory
            for each in under_way:
                each.arrival.cancel()
            await asyncio.gather(*(each.arrival for each in under_way), return_exceptions=True)

    async def _begun(self, request: Request) -> _UnderWay:
        places = [self._places[piece.path].memory for piece in request.slices]
        there = [
            memory[piece.at : piece.at + piece.length]
            for memory, piece in zip(places, request.slices, strict=True)
            if memory is not None
        ]
        if len(there) == len(places) and (request.is_scattered or len(there) == 1):
            return _UnderWay(request, None, there, asyncio.create_task(self._get(request, there)))
        lent = await asyncio.to_thread(self._rooms.lend)
        pieces = [lent.memory[piece.start : piece.start + piece.length] for piece in request.slices]
        return _UnderWay(
            request, lent, pieces, asyncio.create_task(self._get(request, [lent.memory[: request.length]]))
        )

    async def _get(self, request: Request, into: Sequence[memoryview]) -> None:
        pack, storage = self._packs[request.pack], self._storage
        with readable(self._what(request)):
            if len(into) > 1 and isinstance(storage, Scattering):
                await storage.scatter(pack.key, request.start, into)
            else:
                await fill(storage, pack, request.start, into[0])

    async def _settle(self, under_way: deque[_UnderWay]) -> None:
        """Wait for the first, and deal with it while the others go on."""
        first = under_way[0]
        await first.arrival
        await settled(asyncio.to_thread(self._take_in, first))
        under_way.popleft()
        self._progress(sum(piece.length for piece in first.request.slices))

    def _take_in(self, arrived: _UnderWay) -> None:
        for piece, memory in zip(arrived.request.slices, arrived.pieces, strict=True):
            self._digest.update(memory)
            if piece.is_last:
                check_digest(self._digest.hexdigest(), self._what(arrived.request), piece.path, piece.extent)
                self._digest.reset()
        if arrived.room is not None:
            for piece in arrived.request.slices:
                self._places[piece.path].take(piece.at, arrived.room, piece.start, piece.length)
            self._rooms.give_back(arrived.room)

    def _what(self, request: Request) -> str:
        return f"{self._storage.url}/{self._packs[request.pack].key}"
