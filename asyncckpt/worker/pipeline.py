"""Pipeline: from arena to packs. Digest and write follow the watermark side by side, both off the GIL.

A save that is expected to change almost everything is written while it is digested. One that may share much waits
for its digests, and then writes what changed: it has that much less to write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, TypeVarTuple

from asyncckpt.format.codec import PLAIN, Codec
from asyncckpt.format.contents import EXTENT, Box, Contents, Extent, Pack, Path, TensorEntry
from asyncckpt.format.digest import digest
from asyncckpt.format.document import EncodedTensors, Form
from asyncckpt.format.frames import Frames, most_stored
from asyncckpt.format.names import DataDirectory
from asyncckpt.storage.base import Lasting, Storage
from asyncckpt.storage.together import together
from asyncckpt.worker.encoding import Encoding
from asyncckpt.worker.gathering import CHUNK, GatheredPack, chunks, gathered
from asyncckpt.worker.increment import MOSTLY, Base, Choice, choose, join, placed, shareable, turnover
from asyncckpt.worker.job import Layout, PlannedPack, PlannedTensor, SaveJob
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.taking import Taking
from asyncckpt.worker.watermark import Watermark

MOST = 8 * CHUNK
"""Bytes handed to the storage at a time, at most: a save that is given up writes so much longer."""

Digesting: TypeAlias = "asyncio.Future[Digested]"
"""The digests of one save, on their way."""

_Stored: TypeAlias = dict[int, Frames]
"""How a save's packs are stored, by their numbers, where that is not as they are."""

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")


@dataclass(frozen=True, slots=True)
class Written:
    """What one save's packs hold, older ones that it shares among them, and how many bytes are in new ones.

    `turnover`: the part of the state's bytes that had changed; None where there was nothing to compare with.
    """

    contents: Contents
    nbytes: int
    turnover: float | None


@dataclass(slots=True)
class Rest:
    """Seconds for which one save's two halves did nothing, as the pace demands."""

    writing: float = 0.0
    digesting: float = 0.0

    @property
    def seconds(self) -> float:
        """By how much it would have been over sooner, about: the halves go side by side."""
        return max(self.writing, self.digesting)


class Forms:
    """The form of the layout that was written whole last: layouts seldom change."""

    def __init__(self) -> None:
        self._last: tuple[Layout, Form] | None = None

    def encoded(self, layout: Layout, tensors: Mapping[Path, TensorEntry]) -> EncodedTensors:
        """`tensors` as they lie in `layout`."""
        if self._last is None or self._last[0] is not layout:
            self._last = layout, Form(tensors)
        return self._last[1].encoded(tensors)


@dataclass(frozen=True, slots=True)
class Packing:
    """One save's bytes, and where they go. `view` is the arena; `threads` is where waiting and digesting happen.

    Between two pieces of work there is rest, as `pace` says.
    """

    job: SaveJob
    view: memoryview
    watermark: Watermark
    storage: Storage
    directory: DataDirectory
    threads: Executor
    pace: Pace
    taking: Taking | None = None
    """Where what was read is given back."""
    codec: Codec = PLAIN
    """What packs are stored with."""
    incremental: bool = True
    """Whether it may share anything with an older save."""
    forms: Forms = field(default_factory=Forms)
    """Of this and of earlier saves."""
    rest: Rest = field(default_factory=Rest)

    async def write(self, base: Base | None = None) -> Written:
        """Write what `base` does not hold and digest everything; returns once all new packs are durable.

        On any failure the other half is told to stop and nothing is left visible but packs of a directory that no
        record will ever name.
        """
        async with self.digesting() as digested:
            return await self.put(digested, base)

    @asynccontextmanager
    async def digesting(self) -> AsyncIterator[Digesting]:
        """Digest everything meanwhile, once for however many stores it is `put` in; told to stop on any failure."""
        digested = asyncio.ensure_future(self._in_thread(self._digest))
        try:
            yield digested
        except BaseException:
            self.watermark.leave()
            await asyncio.gather(digested, return_exceptions=True)
            raise

    async def put(self, digested: Digesting, base: Base | None = None) -> Written:
        """Write what `base` does not hold; the same whenever it is asked for with the same `base`."""
        base = shareable(base, self.codec) if self.incremental else None
        # What goes through a window is there once: it cannot wait for what its digests say.
        if base is None or base.is_mostly_changing or self.watermark.is_windowed:
            return await self._write_whole(digested, base)
        found = await asyncio.shield(digested)
        choice = await self._in_thread(choose, found.tensors, base)
        if choice.turnover > MOSTLY:
            return await self._write_whole(digested, base)
        return await self._write_increment(found, base, choice)

    async def _in_thread(self, function: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)

    @property
    def _rests(self) -> bool:
        """Whether there is rest after what was done. Not where a window is: training waits there for this work."""
        return self.pace.share < 1 and self.taking is None

    def _key(self, number: int) -> str:
        return self.directory.pack(self.job.rank, self.job.world, number, self.codec.suffix)

    def _pack(self, number: int, length: int, header: int, headers_digest: str, frames: _Stored) -> Pack:
        how = self.codec.word, frames.get(number)
        return Pack(self._key(number), length, header, headers_digest, self.job.rank, *how)

    def _contents(self, packs: Iterable[Pack], tensors: Mapping[Path, TensorEntry]) -> Contents:
        hidden = PLAIN if self.codec.key is None else self.codec
        return Contents(tuple(packs), tensors, self.job.layout.aliases, self.job.values, hidden.word)

    async def _store(self, number: int, parts: AsyncIterator[memoryview], length: int, stored: _Stored) -> None:
        """Put a pack, whose `parts` are gone when the next are asked for; how is noted in `stored`."""
        if self.codec.is_plain:
            await self.storage.put(self._key(number), parts, length=length)
        else:
            encoding = Encoding(self.codec, self._key(number), length, self.threads)
            await self.storage.put(self._key(number), Lasting(encoding.stored(parts), most_stored(length)))
            stored[number] = encoding.frames

    # -- everything, straight from the arena -----------------------------------------------------------------

    async def _write_whole(self, digested: Digesting, base: Base | None) -> Written:
        # While the disk writes what was digested, since the manifest must wait for both.
        described = asyncio.ensure_future(self._described(digested, base))
        stored: _Stored = {}
        await together([*self._puts(stored), described])
        found, (tensors, turnover) = await asyncio.shield(digested), await described
        packs = [
            self._pack(number, pack.length, pack.header, header, stored)
            for number, (pack, header) in enumerate(zip(self.job.layout.packs, found.headers, strict=True))
        ]
        return Written(self._contents(packs, tensors), sum(pack.stored for pack in packs), turnover)

    async def _described(self, digested: Digesting, base: Base | None) -> tuple[EncodedTensors, float | None]:
        """The tensors as the manifest will have them, and how much of them changed."""
        return await self._in_thread(self._encoded, (await asyncio.shield(digested)).tensors, base)

    def _encoded(self, found: Mapping[Path, TensorEntry], base: Base | None) -> tuple[EncodedTensors, float | None]:
        tensors = self.forms.encoded(self.job.layout, found)
        return tensors, None if base is None else turnover(tensors, base)

    def _puts(self, stored: _Stored) -> list[asyncio.Future[None]]:
        packs = list(enumerate(self.job.layout.packs))
        if self.taking is None:
            return [asyncio.ensure_future(self._put(number, pack, stored)) for number, pack in packs]
        # What comes later is not there before what comes first was taken.
        return [asyncio.ensure_future(self._put_in_turn(packs, stored))]

    async def _put_in_turn(self, packs: Iterable[tuple[int, PlannedPack]], stored: _Stored) -> None:
        for number, pack in packs:
            await self._put(number, pack, stored)

    async def _put(self, number: int, pack: PlannedPack, stored: _Stored) -> None:
        parts = self._paced(self._chunks(number, pack))
        if self.taking is not None or not self.codec.is_plain:  # a window gives the room of what was taken back
            await self._store(number, parts, pack.length, stored)
        else:  # the arena is this save's until its puts have ended
            await self.storage.put(self._key(number), Lasting(parts), length=pack.length)

    async def _chunks(self, number: int, pack: PlannedPack) -> AsyncIterator[memoryview]:
        """The pack's bytes as the watermark reaches them: all that is there at once, up to `MOST`.

        Between two of them three threads take turns, and each may wait for one that holds the interpreter: with small
        chunks that took longer than the writes.
        """
        start, end = pack.start, pack.start + pack.length
        while start < end:
            if self.watermark.reached < min(start + CHUNK, end):
                await self._in_thread(self.watermark.wait, min(start + CHUNK, end))
            there = min(self.watermark.reached, end, start + (MOST if self.pace.share == 1 else CHUNK))
            stop = there if there == end else start + (there - start) // CHUNK * CHUNK
            yield self.view[start:stop]
            start = stop
            if self.taking is not None:
                self.taking.wrote(number, stop)

    async def _paced(self, chunks: AsyncIterator[memoryview]) -> AsyncIterator[memoryview]:
        """The chunks, with rest after what was done with each of them."""
        async for chunk in chunks:
            began = time.monotonic()
            yield chunk
            if self._rests:  # a thread is not asked for nothing
                worked_until = time.monotonic()
                await self._in_thread(self.pace.rest, worked_until - began)
                self.rest.writing += time.monotonic() - worked_until

    def _digest(self) -> Digested:
        """Digests of every header and every extent, in file order behind the watermark."""
        layout = self.job.layout
        tensors: dict[Path, TensorEntry] = {}
        headers: list[str] = []
        for path, tensor in layout.tensors.items():
            if len(headers) <= tensor.pack:
                headers += map(self._digested_header, layout.packs[len(headers) : tensor.pack + 1])
            tensors[path] = self._digested(tensor)
        headers += map(self._digested_header, layout.packs[len(headers) :])
        if self.taking is not None:
            self.taking.digested(layout.size)
        return Digested(tensors, tuple(headers))

    def _digested_header(self, pack: PlannedPack) -> str:
        self.watermark.wait(pack.start + pack.header)
        return digest(self.view[pack.start : pack.start + pack.header])

    def _digested(self, tensor: PlannedTensor) -> TensorEntry:
        found = []
        shift = self.job.layout.packs[tensor.pack].start
        end = tensor.offset + tensor.nbytes
        for start in range(tensor.offset, end, EXTENT):
            stop = min(start + EXTENT, end)
            if self.watermark.reached < shift + stop:
                self.watermark.wait(shift + stop)
            began = time.monotonic()
            found.append(Extent(tensor.pack, start, stop - start, digest(self.view[shift + start : shift + stop])))
            if self.taking is not None:
                self.taking.digested(shift + stop)
            if self._rests:
                worked_until = time.monotonic()
                self.pace.rest(worked_until - began)
                self.rest.digesting += time.monotonic() - worked_until
        box = Box((0,) * len(tensor.shape), tensor.shape, tuple(found))
        return TensorEntry(tensor.dtype, tensor.shape, (box,), tensor.stride)

    # -- what changed, gathered ------------------------------------------------------------------------------

    async def _write_increment(self, found: Digested, base: Base, choice: Choice) -> Written:
        own, stored = await self._in_thread(self._gathered, choice), _Stored()
        for number, pack in enumerate(own):
            await self._store(number, self._paced(chunks(pack, self.view, self.threads)), pack.length, stored)
        contents = await self._in_thread(self._joined, own, stored, found, base, choice)
        return Written(contents, sum(pack.stored for pack in contents.packs[: len(own)]), choice.turnover)

    def _gathered(self, choice: Choice) -> list[GatheredPack]:
        """What is likely to change again, and apart from it what is not."""
        return gathered(self.job.layout, choice.changed) + gathered(self.job.layout, choice.moved)

    def _joined(
        self, own: Sequence[GatheredPack], stored: _Stored, found: Digested, base: Base, choice: Choice
    ) -> Contents:
        packs = [
            self._pack(n, pack.length, len(pack.header), digest(pack.header), stored) for n, pack in enumerate(own)
        ]
        tensors = {
            path: placed(found.tensors[path], number, offset)
            for number, pack in enumerate(own)
            for path, offset in pack.offsets.items()
        }
        return join(self._contents(packs, tensors), choice.kept, base.contents.packs)


@dataclass(frozen=True, slots=True)
class Digested:
    """Every tensor where the layout has it, and the digests of the planned packs' headers."""

    tensors: Mapping[Path, TensorEntry]
    headers: tuple[str, ...]
