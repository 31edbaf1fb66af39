"""What a bench measures: copies in memory, one object, small ones, and saves by the writer that trainings have."""

from __future__ import annotations

import asyncio
import functools
import os
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.cli.rates import Rate, read, written
from asyncckpt.convert.committing import Writer, gathered
from asyncckpt.convert.image import About, Held, Image, image
from asyncckpt.fetching.reading import verify
from asyncckpt.format.contents import Path
from asyncckpt.sizes import size
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.local import LocalStorage
from asyncckpt.storage.room import room

_TENSOR = 16 << 20
_SMALL = 1 << 10
_LEAST = 1 << 20
"""Bytes of a save that takes as long as one does however small it is."""

_OBJECTS = 20
_COPIES = 3
_SAVES = 2

_LEAVING = 10.0
"""Seconds that a save which nobody waits for any more has to end."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One thing that was measured: a number for people with what it is, and its JSON."""

    name: str
    number: str
    sentence: str
    json: Any

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.name.replace('_', ' '):<13} {self.number:>14}  {self.sentence}"


@dataclass(slots=True)
class Forecast:
    """What was measured that says how long a whole state would take."""

    copy: Rate
    least: float = 0.0
    saves: list[Rate] = field(default_factory=list)
    check: Rate | None = None

    def of(self, nbytes: int) -> Measured:
        """For a state of so many bytes."""
        staged = self.copy.of(nbytes)
        found = {"bytes": nbytes, "staged": staged}
        sentence = f"staged in {staged:.1f} s"
        if self.saves and self.check is not None:
            taken = statistics.mean(save.seconds for save in self.saves)
            # What a save takes however small it is comes once, also to a large one.
            beyond = Rate(self.saves[0].bytes, max(taken - self.least, taken / 2))
            found |= {"durable": max(staged, self.least + beyond.of(nbytes)), "read": self.check.of(nbytes)}
            sentence += f", durable in {found['durable']:.1f} s, read and checked in {found['read']:.1f} s"
        return Measured("state", size(nbytes), sentence, found)


class Bench:
    """Measures with `nbytes`; `busy` is told with what."""

    def __init__(self, nbytes: int, busy: Callable[[str], None]) -> None:
        self._nbytes = nbytes
        self._busy = busy
        self._image = _state(nbytes)
        self._data = memoryview(b"")
        self._into = memoryview(b"")
        self._forecast: Forecast | None = None

    def memory(self) -> Measured:
        """Copies in memory, by one thread; the memory is had before, as a training has it after its first save."""
        self._busy("copying in memory")
        self._data = gathered(self._image, lambda done, total: None)
        self._into = memoryview(room(len(self._data)))
        seconds = []
        for _ in range(_COPIES + 1):
            began = time.monotonic()
            self._into[:] = self._data
            seconds.append(time.monotonic() - began)
        rate = Rate(len(self._data), min(seconds[1:]))
        self._forecast = Forecast(rate)
        return Measured("copy", str(rate), "in memory, by one thread: how a state on the CPU is staged", rate.json())

    async def store(self, url: str) -> AsyncGenerator[Measured, None]:
        """Everything that is measured in the empty root at `url`; after `memory`."""
        storage = from_url(url)
        try:
            async for measured in self._objects(storage):
                yield measured
            async for measured in self._saves(url, storage):
                yield measured
            for feature, why in storage.fallbacks.items():
                yield Measured("note", "", f"{feature.replace('_', ' ')}: {why}", {"feature": feature, "why": why})
        finally:
            await storage.aclose()

    def forecast(self, nbytes: int) -> Measured:
        """What all of that means for a state of so many bytes."""
        return self._known.of(nbytes)

    @property
    def _known(self) -> Forecast:
        if self._forecast is None:
            raise RuntimeError("memory comes first")
        return self._forecast

    async def _objects(self, storage: Storage) -> AsyncIterator[Measured]:
        is_folder = isinstance(storage, LocalStorage)
        nbytes = size(len(self._data))
        self._busy(f"writing {nbytes}")
        rate = await written(storage, "data/large", self._data)
        yield Measured("write", str(rate), f"{nbytes} as one object", rate.json())
        self._busy(f"reading {nbytes}")
        rate = await read(storage, "data/large", self._into)
        await storage.delete(["data/large"])
        cached = ", maybe out of a cache" if is_folder and "direct_io" in storage.fallbacks else ""
        yield Measured("read", str(rate), f"the same{cached}", rate.json())
        self._busy("writing small objects")
        keys = [f"data/small-{number}" for number in range(_OBJECTS)]
        puts = [(await written(storage, key, bytes(_SMALL))).seconds for key in keys]
        yield _latency("small_write", puts, "to write 1 KiB")
        gets = [(await read(storage, key, bytearray(_SMALL))).seconds for key in keys]
        yield _latency("small_read", gets, "to read it")
        lists = [await _listed(storage) for _ in range(_COPIES)]
        yield _latency("list", lists, f"to list {_OBJECTS} objects")
        await storage.delete(keys)

    async def _saves(self, url: str, storage: Storage) -> AsyncIterator[Measured]:
        """From the call with everything staged to the commit; and all of one read again, with every digest."""
        known = self._known
        small = _state(_LEAST)
        filled = gathered(small, lambda done, total: None)
        writer = Writer(functools.partial(from_url, url))
        try:
            self._busy("saving little")
            await _saved(writer, small, filled, 1)  # which also begins the run
            known.least = min([await _saved(writer, small, filled, step) for step in (2, 3)])
            for number in range(_SAVES):
                self._busy(f"saving {size(self._nbytes)}, {number + 1} of {_SAVES}")
                known.saves.append(Rate(self._nbytes, await _saved(writer, self._image, self._data, 4 + number)))
        finally:
            await asyncio.to_thread(writer.close, _LEAVING)
        taken = [save.seconds for save in known.saves]
        said = f"until {size(self._nbytes)} are durable as a checkpoint ({_seconds(known.least)} of it for the least)"
        values = {"bytes": self._nbytes, "seconds": taken, "least": known.least}
        yield Measured("save", _seconds(statistics.mean(taken)), said, values)
        self._busy("reading it back")
        catalog = Catalog(storage)
        checkpoint = (await catalog.listing()).checkpoints[-1]
        began = time.monotonic()
        await verify(catalog, checkpoint, full=True)
        known.check = Rate(self._nbytes, time.monotonic() - began)
        said = "to read that back with every digest, as a resume does"
        yield Measured("check", str(known.check), said, known.check.json())


async def _saved(writer: Writer, state: Image, memory: memoryview, step: int) -> float:
    began = time.monotonic()
    saving = asyncio.wrap_future(writer.save(state, memory, About(step), "bench"))
    # Not awaited itself: a Ctrl-C would cancel what the writer's thread answers to.
    await asyncio.wait([saving])
    saving.result()
    return time.monotonic() - began


async def _listed(storage: Storage) -> float:
    began = time.monotonic()
    async for _ in storage.list():
        pass
    return time.monotonic() - began


def _state(nbytes: int) -> Image:
    """Tensors of together so many bytes, which no store makes smaller."""
    tile = os.urandom(min(nbytes, _TENSOR))

    def write(into: memoryview) -> None:
        into[:] = tile[: len(into)]

    tensors: dict[Path, Held] = {}
    for start in range(0, nbytes, _TENSOR):
        length = min(_TENSOR, nbytes - start)
        tensors["model", f"{start // _TENSOR:06d}"] = Held("uint8", (length,), length, write)
    return image(tensors, {}, {})


def _latency(name: str, seconds: Sequence[float], what: str) -> Measured:
    median = statistics.median(seconds)
    return Measured(name, _seconds(median), f"{what} (median of {len(seconds)})", {"seconds": median})


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
