"""Arriving: every byte is fetched once, in few requests of bounded size, and checked on its way to where it belongs."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Mapping, Sequence

import pytest

from asyncckpt.errors import CheckpointCorruptError, StorageDenied
from asyncckpt.fetching import arriving
from asyncckpt.fetching.arriving import IN_FLIGHT, PIECE, SCATTERED, Arrivals, HostRooms, Request, Room, requests
from asyncckpt.fetching.placing import Place
from asyncckpt.fetching.reading import GAP
from asyncckpt.format.contents import Extent, Pack, Path
from asyncckpt.format.digest import digest
from asyncckpt.format.frames import Frames
from asyncckpt.storage.base import Buffer
from asyncckpt.storage.memory import MemoryStorage
from asyncckpt.testing.slow import PATIENCE, GatedStorage

MIB = 1 << 20


class Ranges(MemoryStorage):
    """Remembers what was asked for, and into whose memory."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, int]] = []
        self.into: list[Buffer | None] = []

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        self.asked.append((key, start, length or 0))
        self.into.append(into)
        return await super().get(key, start=start, length=length, into=into)


class Stored:
    """Tensors of some sizes in packs, each behind 3 bytes that belong to nobody, and memory where they belong."""

    def __init__(
        self, sizes: Mapping[str, int], extent: int = 64 * MIB, packs: int = 1, between: bytes = b"odd"
    ) -> None:
        self.store = Ranges()
        self.bodies = [bytearray() for _ in range(packs)]
        self.places: dict[Path, Place] = {}
        self.data: dict[Path, bytes] = {}
        self.told: list[int] = []
        for number, (name, size) in enumerate(sizes.items()):
            body, content = self.bodies[number % packs], os.urandom(size)
            body += between
            extents = tuple(
                Extent(
                    number % packs, len(body) + at, len(content[at : at + extent]), digest(content[at : at + extent])
                )
                for at in range(0, size, extent)
            )
            body += content
            path = tuple(name.split("."))
            self.data[path] = content
            self.places[path] = Place(memoryview(bytearray(size)), extents, None)

    def fill(self, *parts: Path, rooms: HostRooms | None = None) -> None:
        async def act() -> None:
            for number, body in enumerate(self.bodies):
                await self.store.put(f"p{number}", [bytes(body)])
            packs = [Pack(f"p{number}", len(body), 0, "") for number, body in enumerate(self.bodies)]
            arrivals = Arrivals(self.store, packs, self.places, rooms or HostRooms(), self.told.append)
            for part in parts or ((),):
                await arrivals.fill(part)

        asyncio.run(act())

    @property
    def arrived(self) -> list[str]:
        return [".".join(path) for path, place in self.places.items() if place.memory == self.data[path]]


def covered(found: list[Request]) -> list[tuple[int, int]]:
    return [(request.start, request.length) for request in found]


def test_neighbours_are_one_request_and_what_is_long_is_cut_where_a_request_is_full() -> None:
    stored = Stored({"a": 100, "b": PIECE - 1, "c": 50, "d": PIECE // 2})
    found = list(requests(stored.places))
    total = len(stored.bodies[0]) - 3
    assert covered(found) == [(3 + at, min(PIECE, total - at)) for at in range(0, total, PIECE)]
    assert [[piece.path[0] for piece in request.slices] for request in found] == [["a", "b"], ["b", "c", "d"]]


def test_what_is_long_begins_a_request_and_only_its_end_shares_one() -> None:
    stored = Stored({"a": 100, "b": PIECE, "c": 50, "d": 2 * PIECE + 1, "e": 60})
    found = list(requests(stored.places))
    assert [[piece.path[0] for piece in request.slices] for request in found] == [
        ["a"],
        ["b"],
        ["c"],
        ["d"],
        ["d"],
        ["d", "e"],
    ]
    assert [request.length for request in found[:5]] == [100, PIECE, 50, PIECE, PIECE]


def test_what_lies_far_apart_or_in_another_pack_is_another_request() -> None:
    stored = Stored({"a": 10, "between": GAP - 6, "c": 30, "far": GAP, "e": 40})
    for name in ("between", "far"):
        del stored.places[name,]
    first, second = requests(stored.places)
    assert first.length == 10 + 3 + (GAP - 6) + 3 + 30
    assert [piece.path for piece in second.slices] == [("e",)]
    apart = Stored({"a": 10, "b": 20}, packs=2)
    assert [request.pack for request in requests(apart.places)] == [0, 1]
    assert list(requests({})) == []


@pytest.mark.parametrize("packs", [1, 2])
def test_every_byte_is_fetched_once_and_is_where_it_belongs(packs: int) -> None:
    sizes = {"m.small": 7, "m.big": 20 * MIB + 5, "m.empty": 0, "n.one": 1, "n.other": 3 * MIB, "n.last": 9 * MIB}
    stored = Stored(sizes, extent=3 * MIB + 1, packs=packs)
    stored.fill()
    assert stored.arrived == list(sizes)
    assert all(length <= PIECE for _, _, length in stored.store.asked)
    for number in range(packs):
        ranges = sorted((start, start + length) for key, start, length in stored.store.asked if key == f"p{number}")
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
    assert sum(stored.told) == sum(sizes.values())
    assert len(stored.store.asked) <= len(stored.bodies) + sum(sizes.values()) // PIECE + 1


def test_each_part_comes_by_itself() -> None:
    stored = Stored({"m.a": 10, "n.b": 2 * PIECE, "n.c": 30})
    stored.fill(("n",))
    assert stored.arrived == ["n.b", "n.c"]
    assert not any(stored.places["m", "a"].memory)
    assert min(start for _, start, _ in stored.store.asked) == stored.places["n", "b"].extents[0].offset


def test_what_belongs_to_one_tensor_is_read_into_it_and_anything_else_through_a_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    real = arriving.room
    monkeypatch.setattr(arriving, "room", lambda size: made.append(size) or real(size))
    stored = Stored({"big": 4 * PIECE, "a": 100, "b": 100})
    stored.fill()
    assert stored.arrived == ["big", "a", "b"]
    assert made == [PIECE]
    inside = stored.places["big",].memory.obj
    assert [into is not None and memoryview(into).obj is inside for into in stored.store.into] == [True] * 4 + [False]


def test_rooms_are_few_however_much_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = arriving.room
    monkeypatch.setattr(arriving, "room", lambda size: made.append(size) or real(size))
    stored = Stored({f"t{number}": MIB for number in range(30 * PIECE // MIB)})
    stored.fill()
    assert len(stored.arrived) == 30 * PIECE // MIB
    assert len(stored.store.asked) == 31
    assert len(made) <= IN_FLIGHT


def test_so_many_requests_are_under_way_and_no_more() -> None:
    stored = Stored({"big": 3 * IN_FLIGHT * PIECE})
    gated = GatedStorage(stored.store)

    async def act() -> None:
        await stored.store.put("p0", [bytes(stored.bodies[0])])
        with gated.hold("get") as gate:
            packs = [Pack("p0", len(stored.bodies[0]), 0, "")]
            filling = asyncio.create_task(Arrivals(gated, packs, stored.places, HostRooms(), lambda _: None).fill(()))
            await asyncio.to_thread(gate.wait_reached, IN_FLIGHT)
            for _ in range(10):
                await asyncio.sleep(0)
            assert gated.count("get") == IN_FLIGHT
            gate.open()
            await filling

    asyncio.run(act())
    assert stored.arrived == ["big"]


@pytest.mark.parametrize("times", [1, 2])
def test_who_is_cancelled_goes_on_when_nothing_is_on_its_way_any_more(times: int) -> None:
    taking, go, taken = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        """Where it takes long to bring bytes."""

        memory = None

        def __init__(self, extents: tuple[Extent, ...]) -> None:
            self.extents = extents

        def take(self, at: int, room: Room, start: int, length: int) -> None:
            taking.set()
            assert go.wait(PATIENCE)
            taken.set()

    async def act() -> None:
        stored = Stored({"a": 100})
        await stored.store.put("p0", [bytes(stored.bodies[0])])
        places = {path: Slow(place.extents) for path, place in stored.places.items()}
        packs = [Pack("p0", len(stored.bodies[0]), 0, "")]
        filling = asyncio.create_task(Arrivals(stored.store, packs, places, HostRooms(), lambda nbytes: None).fill(()))
        assert await asyncio.to_thread(taking.wait, PATIENCE)
        for _ in range(times):
            filling.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
        assert not filling.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await filling
        assert taken.is_set()

    asyncio.run(act())


class Scatters(Ranges):
    """Fills several pieces of memory by one request."""

    def __init__(self) -> None:
        super().__init__()
        self.scattered: list[tuple[int, list[int]]] = []

    async def scatter(self, key: str, start: int, into: Sequence[memoryview]) -> None:
        self.scattered.append((start, [len(part) for part in into]))
        found = await super().get(key, start=start, length=sum(map(len, into)))
        for part in into:
            part[:], found = found[: len(part)], found[len(part) :]


def test_where_the_store_can_one_request_is_read_into_several_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = arriving.room
    monkeypatch.setattr(arriving, "room", lambda size: made.append(size) or real(size))
    sizes = {"a": 5 * MIB, "b": 7 * MIB, "c": 9 * MIB, "small": 100, "d": 40 * MIB, "e": 2 * MIB}
    stored = Stored(sizes, between=b"")
    stored.store = store = Scatters()
    stored.fill()
    assert stored.arrived == list(sizes)
    assert made == []
    assert store.scattered == [(0, [5 * MIB, 7 * MIB, 4 * MIB]), (53 * MIB + 100, [8 * MIB, 2 * MIB])]
    plain = [(start, length) for _, start, length in store.asked if (start, length) not in _whole(store)]
    assert plain == [
        *((16 * MIB, 5 * MIB), (21 * MIB, 100)),
        *((21 * MIB + 100, SCATTERED), (37 * MIB + 100, SCATTERED)),
    ]
    assert sum(stored.told) == sum(sizes.values())


def _whole(store: Scatters) -> list[tuple[int, int]]:
    return [(start, sum(lengths)) for start, lengths in store.scattered]


def test_nothing_is_scattered_where_bytes_of_nobody_lie_between_or_packs_are_in_frames() -> None:
    stored = Stored({"a": 5 * MIB, "b": 7 * MIB})
    stored.store = store = Scatters()
    stored.fill()
    assert stored.arrived == ["a", "b"]
    assert store.scattered == []
    frames = Frames(1 << 20, "", ())
    packs = [Pack("p0", 12 * MIB, 0, "", codec="zstd", frames=frames)]
    assert not Arrivals(store, packs, stored.places, HostRooms(), lambda _: None)._scatters


def test_a_wrong_byte_in_the_second_of_several_tensors_is_found() -> None:
    stored = Stored({"a": 5 * MIB, "b": 7 * MIB}, between=b"")
    stored.store = Scatters()
    stored.bodies[0][-1] ^= 1
    with pytest.raises(CheckpointCorruptError, match="p0: b does not match its digest"):
        stored.fill()


@pytest.mark.parametrize("tensor", ["big", "a"])
def test_a_wrong_byte_is_found_and_nothing_goes_on_after_it(tensor: str) -> None:
    stored = Stored({"big": 2 * PIECE, "a": 100, "b": 100})
    extent = stored.places[tensor,].extents[0]
    stored.bodies[0][extent.offset + extent.length - 1] ^= 1

    async def tasks_left() -> int:
        await stored.store.put("p0", [bytes(stored.bodies[0])])
        packs = [Pack("p0", len(stored.bodies[0]), 0, "")]
        with pytest.raises(CheckpointCorruptError, match=f"p0: {tensor} does not match its digest") as caught:
            await Arrivals(stored.store, packs, stored.places, HostRooms(), stored.told.append).fill(())
        assert caught.value.kind == "content"
        return len(asyncio.all_tasks())

    assert asyncio.run(tasks_left()) == 1


@pytest.mark.parametrize(
    ("error", "raised"),
    [(None, "p0 is missing"), (StorageDenied(13, "access denied"), "the store cannot be read: access denied")],
)
def test_a_store_that_fails_in_the_middle(error: StorageDenied | None, raised: str) -> None:
    stored = Stored({"big": 12 * PIECE})
    gated = GatedStorage(stored.store)

    async def act() -> None:
        await stored.store.put("p0", [bytes(stored.bodies[0])])
        packs = [Pack("p0", len(stored.bodies[0]), 0, "")]
        came: list[int] = []

        def told(nbytes: int) -> None:
            came.append(nbytes)
            if len(came) == 3 and error is not None:
                gated.fail("get", "p0", lambda: error)

        if error is None:
            await stored.store.delete(["p0"])
        arrivals = Arrivals(gated, packs, stored.places, HostRooms(), told)
        with pytest.raises(CheckpointCorruptError if error is None else StorageDenied, match=raised):
            await arrivals.fill(())
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(act())
