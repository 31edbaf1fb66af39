"""Driving a `SaveService` on plain bytes, without torch: fast enough for thousands of runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, TypeVar, TypeVarTuple

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.commits import Fenced
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.events import HOME, Event, Listeners
from asyncckpt.fetching.reading import fetch, verify
from asyncckpt.format import names
from asyncckpt.format.codec import PLAIN, Codec
from asyncckpt.format.contents import Path
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Record, WriterId
from asyncckpt.format.shard import PackedTensor, encode_header, pack_names
from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.writer import Writer, open_run
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.job import Committed, Landed, Layout, PlannedPack, PlannedTensor, Rejected, SaveJob
from asyncckpt.worker.ranks import SingleRank
from asyncckpt.worker.service import SaveService
from asyncckpt.worker.ticket import Reply, Ticket
from asyncckpt.worker.watermark import Watermark

Tensors = Mapping[Path, bytes]
FROZEN = hashlib.shake_128(b"frozen").digest(333)
_E = TypeVar("_E", bound=Event)
_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")


def content(step: int) -> dict[Path, bytes]:
    """The tensors of `step`, of odd lengths: some with other bytes for every step, one empty, one frozen, and one
    that changes with every third step.
    """
    noise = hashlib.shake_128(str(step).encode()).digest(120)
    rare = hashlib.shake_128(f"rare {step // 3}".encode()).digest(131)
    return {
        ("model", "weight"): noise[:97],
        ("model", "bias"): noise[97:],
        ("model", "none"): b"",
        ("model", "frozen"): FROZEN,
        ("model", "rare"): rare,
    }


def image(tensors: Tensors) -> tuple[Layout, bytearray]:
    """One pack of uint8 tensors, as a layout and as the arena that holds it."""
    called = pack_names(tensors)
    packed = {path: PackedTensor(called[path], "U8", (len(data),), len(data)) for path, data in tensors.items()}
    header = encode_header(list(packed.values()))
    arena, planned = bytearray(header), {}
    for path, data in tensors.items():
        planned[path] = PlannedTensor("uint8", (len(data),), None, 0, len(arena), packed[path])
        arena += data
    pack, held = PlannedPack(0, len(header), len(arena)), sum(map(len, tensors.values()))
    return Layout((pack,), planned, {}, len(arena), held), arena


def changing(step: int) -> dict[Path, bytes]:
    """Tensors that all change with every step, so that every save writes a pack and none is shared."""
    return {path: content(step)[path] for path in (("model", "weight"), ("model", "bias"), ("model", "none"))}


class InlineLoop(asyncio.SelectorEventLoop):
    """Makes blocking calls at once: thread switches are most of what a small save costs."""

    def run_in_executor(
        self, executor: Executor | None, function: Callable[[*_Arguments], _T], *arguments: *_Arguments
    ) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def drive(work: Coroutine[Any, Any, _T]) -> _T:
    """``asyncio.run`` without threads: what happens is the same every time."""
    with asyncio.Runner(loop_factory=InlineLoop) as runner:
        return runner.run(work)


class Log:
    """A listener that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[_E]) -> list[_E]:
        return [event for event in self.events if isinstance(event, kind)]


class Session:
    """One process's ownership of a run; made inside a running loop. ``async with`` closes it in order."""

    def __init__(
        self,
        storage: Storage,
        *,
        keep: int | RetentionPolicy | None = None,
        monitor: Monitor | None = None,
        overwrite: bool = False,
        resumed: bool = True,
        former: Session | None = None,
        tensors: Callable[[int], Tensors] = content,
        mirror: Storage | None = None,
        local: Storage | None = None,
        codec: Codec = PLAIN,
    ) -> None:
        self.log = Log()
        self.records: list[Record] = []
        """What was reported durable."""
        self.landed: list[Landed] = []
        policy = RetentionPolicy(last=keep) if isinstance(keep, int) else keep
        config = ServiceConfig(policy, monitor, overwrite, mirror=mirror, local=local, codec=codec)
        self.service = SaveService(storage, config, Listeners([self.log]), SYSTEM_CLOCK, SingleRank())
        self.service.ownership.resumed = resumed
        if former is not None:
            self.service.inherit(former.service.past)
        self._running = asyncio.create_task(self.service.run())
        self._count = 0
        self._tensors = tensors

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def resume(self) -> Listing:
        return await self.service.resume()

    async def go_on(self, listing: Listing) -> None:
        """Go on as a training does that has resumed: from the latest, verified, so that the next save may share it."""
        for latest in listing.candidates()[:1]:
            contents = (await self.service.catalog.manifest(latest)).contents
            await self.service.go_on(latest.seq, (), named=False, verified=contents)

    async def found_damaged(self, seq: int, tier: str = HOME) -> None:
        """The checkpoint with this number was found damaged, or is said to be."""
        writer = self.service.ownership.writer
        assert writer is not None
        checkpoint = writer.listed.get(seq)
        assert checkpoint is not None
        await self.service.damaged(tier, Finding.of(checkpoint), Damage("content", "a test says so", "me", 0))

    async def save(
        self,
        step: int,
        metrics: Mapping[str, float] | None = None,
        epoch: int | None = None,
        *,
        emergency: bool = False,
        partial: tuple[str, ...] = (),
    ) -> Committed | Rejected:
        """Save `content(step)` and wait for the answer."""
        ended: asyncio.Future[Committed | Rejected] = asyncio.get_running_loop().create_future()

        def reply(answer: Reply) -> None:
            if isinstance(answer, Landed):
                self.landed.append(answer)
            if isinstance(answer, Committed | Rejected):
                ended.set_result(answer)

        ticket = self._ticket(step, metrics or {}, epoch, reply)
        job = replace(ticket.job, emergency=emergency, partial=partial)
        self.service.submit(replace(ticket, job=job))
        await asyncio.wait({ended, self._running}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            raise AssertionError(f"the service ended without an answer to step {step}: {self._running}")
        answer = ended.result()
        if isinstance(answer, Committed):
            self.records.append(answer.record)
        return answer

    async def saved(
        self, step: int, metrics: Mapping[str, float] | None = None, epoch: int | None = None, **how: Any
    ) -> Record:
        """A save that has to succeed: its record."""
        answer = await self.save(step, metrics, epoch, **how)
        assert isinstance(answer, Committed), answer
        return answer.record

    async def refused(self, step: int, partial: tuple[str, ...] = ()) -> BaseException:
        """A save that has to fail: its reason."""
        answer = await self.save(step, partial=partial)
        assert isinstance(answer, Rejected), answer
        return answer.error

    async def tidied(self) -> None:
        """Wait for the start's sweep and for the deletion under way."""
        await self.service.ownership.idle()

    async def close(self) -> None:
        self.service.finish()
        await self._running

    async def abandon(self) -> None:
        """End without a closing record, as one that is killed."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.tidied()

    def _ticket(self, step: int, metrics: Mapping[str, float], epoch: int | None, reply: object) -> Ticket:
        layout, arena = image(self._tensors(step))
        watermark = Watermark()
        watermark.advance(len(arena))
        watermark.seal()
        self._count += 1
        job = SaveJob(f"{id(self)}-{self._count}", self._count, step, epoch, metrics, step * 1000, "arena", layout)
        return Ticket(job, memoryview(arena), watermark, reply)


def run(act: Callable[[MemoryStorage], Coroutine[Any, Any, _T]], store: MemoryStorage | None = None) -> _T:
    """Act on a store in memory."""

    return drive(act(store or MemoryStorage()))


async def three(store: Storage, keep: int | None = None) -> None:
    """A finished run with the steps 1, 2, 3."""
    async with Session(store, keep=keep) as session:
        for step in (1, 2, 3):
            await session.saved(step)


def me(name: str = "a") -> WriterId:
    """A writer's identity."""
    return WriterId(name * 32, "host", 1, 0)


async def opened(storage: Storage, name: str = "a") -> Writer:
    """The run, taken by a bare writer."""
    return await open_run(Catalog(storage), me(name), 0)


async def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [info.key async for info in storage.list(prefix)]


async def steps(storage: Storage) -> list[int]:
    """The steps of the listed checkpoints, oldest first."""
    return [c.step for c in (await Catalog(storage).listing()).checkpoints]


async def checked(storage: Storage, saved: Callable[[int], Tensors] = content) -> Listing:
    """What is listed; raises unless all of it loads bit by bit as it was saved."""
    catalog = Catalog(storage)
    listing = await catalog.listing()
    for lost in listing.lost.values():
        raise lost
    for checkpoint in listing.checkpoints:
        await verify(catalog, checkpoint)
        contents = (await catalog.manifest(checkpoint)).contents
        found = {path: bytes(view) for path, view in (await fetch(storage, contents)).items()}
        expected = {path: data for path, data in saved(checkpoint.step).items() if data}
        assert found == expected, f"step {checkpoint.step} holds other bytes than were saved"
    return listing


async def leftovers(storage: Storage) -> list[str]:
    """Everything in the store that the head does not need."""
    catalog = Catalog(storage)
    listing = await catalog.listing()
    assert listing.head is not None
    needed = {names.RUN, names.LATEST, names.BEST}
    slots = {listing.head.slot, *listing.head.live}
    if isinstance(catalog.commits, Fenced):
        slots.add(listing.head.inc * names.NUMBERS)
    needed |= set(await catalog.commits.removable(slots)) | set(await catalog.commits.keys(sorted(slots)))
    for checkpoint in listing.checkpoints:
        needed |= {checkpoint.manifest.key, *(pack.key for pack in checkpoint.packs)}
    unfinished = [upload.upload async for upload in storage.uploads()]
    return sorted({*await keys(storage)} - needed) + unfinished
