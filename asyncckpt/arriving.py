"""Arriving: bytes that come from a store in ranged requests, each to where it belongs, each fetched once.

Extents that lie side by side in a pack are one request, whatever they belong to, and what is long is cut: so a request
is neither tiny nor huge. Several are under way at once, and are dealt with in the order of the pack, so that a digest
goes on from one to the next. A request whose bytes all belong to one tensor in host memory is read into that; any
other into a room, and from there to where its bytes belong. There are a few rooms, and they are used again: beside
what it restores, a restore takes no more memory than they are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from asyncckpt.damage import readable
from asyncckpt.format.digest import digesting
from asyncckpt.format.manifest import Extent, Pack, Path
from asyncckpt.reading import GAP, check_digest
from asyncckpt.storage.base import Storage
from asyncckpt.storage.room import room

PIECE = 8 << 20
"""Bytes of one request at most."""

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


def requests(places: Mapping[Path, Destination]) -> Iterator[Request]:
    """What fetches everything in `places`, by pack and in the order in which it lies there."""
    slices: list[Slice] = []
    pack = first = end = -1
    for path, extent, offset in _in_order(places):
        at = extent.offset
        while at < extent.offset + extent.length:
            is_near = extent.pack == pack and 0 <= at - end <= GAP and at - first < PIECE
            if slices and not is_near:
                yield Request(pack, first, end - first, tuple(slices))
                slices = []
            if not slices:
                pack, first = extent.pack, at
            size = min(extent.offset + extent.length - at, first + PIECE - at)
            end = at + size
            is_last = end == extent.offset + extent.length
            slices.append(Slice(path, extent, offset + at - extent.offset, at - first, size, is_last))
            at = end
    if slices:
        yield Request(pack, first, end - first, tuple(slices))


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
    memory: memoryview
    arrival: asyncio.Task[memoryview]


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

    async def fill(self, part: Path) -> None:
        """Fetch what belongs to `part` of the state; on devices it may be on its way still when this returns.

        Raises as `asyncckpt.reading.fetch` does: then the part is changed, but not wholly.
        """
        places = {path: place for path, place in self._places.items() if path[: len(part)] == part}
        under_way: deque[_UnderWay] = deque()
        self._digest = digesting()
        try:
            for request in requests(places):
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
        first, memory = request.slices[0], self._places[request.slices[0].path].memory
        lent = None
        if memory is None or len(request.slices) > 1:
            lent = await asyncio.to_thread(self._rooms.lend)
            memory = lent.memory[: request.length]
        else:
            memory = memory[first.at : first.at + first.length]
        return _UnderWay(request, lent, memory, asyncio.create_task(self._get(request, memory)))

    async def _get(self, request: Request, memory: memoryview) -> memoryview:
        pack = self._packs[request.pack]
        with readable(self._what(request)):
            return await self._storage.get(pack.key, start=request.start, length=request.length, into=memory)

    async def _settle(self, under_way: deque[_UnderWay]) -> None:
        """Wait for the first, and deal with it while the others go on."""
        first = under_way[0]
        await first.arrival
        await asyncio.to_thread(self._take_in, first)
        under_way.popleft()
        self._progress(sum(piece.length for piece in first.request.slices))

    def _take_in(self, arrived: _UnderWay) -> None:
        for piece in arrived.request.slices:
            self._digest.update(arrived.memory[piece.start : piece.start + piece.length])
            if piece.is_last:
                check_digest(self._digest.hexdigest(), self._what(arrived.request), piece.path, piece.extent)
                self._digest.reset()
        if arrived.room is not None:
            for piece in arrived.request.slices:
                self._places[piece.path].take(piece.at, arrived.room, piece.start, piece.length)
            self._rooms.give_back(arrived.room)

    def _what(self, request: Request) -> str:
        return f"{self._storage.url}/{self._packs[request.pack].key}"
