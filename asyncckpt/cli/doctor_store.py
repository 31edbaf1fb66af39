"""The doctor's look at a root: what can be read, what a put does there, how fast, and by which clock."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from asyncckpt import allowance
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.cli.checks import Check, not_tried
from asyncckpt.cli.counted import counted
from asyncckpt.cli.exits import reason
from asyncckpt.cli.lost import lost_records
from asyncckpt.cli.rates import read, written
from asyncckpt.cli.scratch import tidied
from asyncckpt.errors import AsyncCkptError, ObjectNotFound, StorageError
from asyncckpt.events import Event, Listeners, Shortage
from asyncckpt.format import names
from asyncckpt.format.runfile import RunFile
from asyncckpt.saves.admission import Admission
from asyncckpt.sizes import size
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Dated, Opening, Storage
from asyncckpt.storage.bounded import Bounded, bounded, unbounded
from asyncckpt.storage.local import LocalStorage
from asyncckpt.storage.mounts import network
from asyncckpt.storage.room import room
from asyncckpt.worker.available import why_not
from asyncckpt.worker.room import free

PROBE = 16 << 20
"""Bytes that are written and read to see how fast that is."""

PATIENCE = 60.0
"""Seconds that one question to the store may take."""

ARENAS = 2
"""Snapshots that are held at once: one that is written and one that is staged."""

_OFF, _FAR_OFF = 5.0, 300.0
"""Seconds by which a clock may be off before that is said, and before stores refuse what is signed by it."""

FENCED = (
    "this store does not honour conditional writes ({}). Checkpoints are protected by incarnation claims, which need "
    "consistent listings: do not point two trainings at this root; if it happens, one stops with Fenced. Where "
    "listings are eventually consistent this protection does not hold"
)


async def store(root: str | None, *, read_only: bool) -> AsyncIterator[Check]:
    """Every check of `root`, and of a worker process for it; without one, of a worker process alone."""
    if root is None:
        if read_only:
            yield not_tried("worker")
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield await _worker(LocalStorage(folder))
        return
    try:
        storage = from_url(root)
    except StorageError as error:
        yield Check("store", "problem", reason(error))
        return
    try:
        # A folder of a mount that hangs holds whoever asks it, whatever was said of how long that may take.
        storage = bounded(storage) if isinstance(storage, LocalStorage) else storage
        look = Look(storage)
        async for check in look.reading():
            yield check
        yield not_tried("worker") if read_only else await _worker(storage)
        if read_only:
            for name in ("creates", "bandwidth", "clock"):
                yield look.begun() if name == "creates" and look.run is not None else not_tried(name)
        elif look.is_readable:
            async for check in look.writing():
                yield check
    finally:
        await storage.aclose()


async def _worker(storage: Storage) -> Check:
    missing = why_not(storage)
    if missing is not None:
        return Check("worker", "note", f"{missing}: saves run in a thread, and end with their process")
    if sys.platform == "linux":
        from asyncckpt.worker.process.trial import start_up

        try:
            seconds = await asyncio.to_thread(start_up, storage)
        except (OSError, RuntimeError) as error:
            return Check("worker", "problem", f"no worker process can be had, and saves run in a thread: {error}")
        return Check("worker", "ok", f"a worker process, which outlives its training, is ready after {seconds:.1f} s")
    else:
        return Check("worker", "note", "a worker process needs Linux: saves run in a thread")


class Look:
    """What was found out about one store."""

    def __init__(self, storage: Storage) -> None:
        self.run: RunFile | None = None
        self.is_readable = False
        self._storage = storage
        self._listing = Listing(None)

    # -- without writing -----------------------------------------------------------------------------------

    async def reading(self) -> AsyncIterator[Check]:
        """What can be told by reading alone."""
        catalog = Catalog(self._storage)
        try:
            async with asyncio.timeout(PATIENCE):
                self.run = await catalog.run()
                self._listing = await catalog.listing()
        except TimeoutError:
            yield Check("store", "problem", f"{self._storage.url} has not answered within {PATIENCE:g} s")
            return
        except AsyncCkptError as error:
            yield Check("store", "problem", reason(error))
            self.is_readable = not isinstance(error, StorageError)
        else:
            self.is_readable = True
            yield self._held()
        if self._is_folder and (kind := await asyncio.to_thread(network, self._storage.url)) is not None:
            yield Check(
                "file system",
                "note",
                f"{self._storage.url} lies on {kind}, a network file system: it is right only where exclusive creation "
                "and fresh listings hold between two hosts, which asyncckpt.testing.storage checks",
            )
        async for check in self._room():
            yield check

    def _held(self) -> Check:
        listing = self._listing
        if listing.lost:
            what = f"{lost_records(listing.lost)}: asyncckpt verify {self._storage.url} tells more"
            return Check("store", "problem", what)
        damaged = sum(info.damaged for info in listing.infos())
        latest = listing.get("latest")
        what = f"{self._storage.url} can be read: {counted(len(listing.records), 'checkpoint')}"
        what += "" if latest is None else f", the latest of step {latest.step}"
        return Check("store", "note" if damaged else "ok", what + (f"; {damaged} found damaged" if damaged else ""))

    async def _room(self) -> AsyncIterator[Check]:
        """Whether one more checkpoint like the latest fits, as a training asks before its first save."""
        try:
            left = await self._free()
        except AsyncCkptError as error:
            yield Check("disk", "problem", reason(error))
            return
        if left is not None:
            yield Check("disk", "ok" if left else "problem", f"{size(left)} free on the disk of {self._storage.url}")
        latest = self._listing.get("latest")
        if latest is None:
            return
        short = _Short()
        admission = Admission(self._storage, Listeners([short]))
        admission.check(latest.size, ARENAS, ("devices",), allowance.memory())
        await asyncio.to_thread(admission.wait)
        for shortage in short.found:
            yield Check("room", "note" if shortage.resource == "memlock" else "problem", shortage.sentence)
        if not short.found:
            yield Check("room", "ok", f"one more checkpoint like the latest ({size(latest.size)}) fits")

    async def _free(self) -> int | None:
        """Bytes that are free there; raises `StorageError` where nobody can wait for the answer."""
        if not isinstance(self._storage, Bounded):
            return None
        return await self._storage.blocking("free space", partial(free, unbounded(self._storage)))

    def begun(self) -> Check:
        """How two writers are kept apart, by what the run says that is there."""
        if self.run is not None and self.run.mode == "fenced":
            return Check("creates", "note", FENCED.format("its run file says so"))
        return Check("creates", "ok", "the run commits by exclusive creation; whether that holds was not tried")

    # -- with writing --------------------------------------------------------------------------------------

    async def writing(self) -> AsyncIterator[Check]:
        """What only a put tells; leaves nothing behind."""
        async with tidied(unbounded(self._storage)):
            try:
                async with asyncio.timeout(PATIENCE):
                    gives = await self._storage.probe()
            except (AsyncCkptError, TimeoutError) as error:
                yield _failed("creates", error)
                return
            yield self._creates(gives)
            for check in await self._measured():
                yield check
            for feature, why in self._storage.fallbacks.items():
                if feature not in ("conditional_writes", "publish"):
                    yield Check(feature.replace("_", " "), "note", why)
            if self._is_folder and "direct_io" not in self._storage.fallbacks:
                yield Check("direct io", "ok", "large files are written past the page cache (O_DIRECT)")
            yield await self._clock()

    @property
    def _is_folder(self) -> bool:
        return isinstance(unbounded(self._storage), LocalStorage)

    def _creates(self, gives: str) -> Check:
        fallbacks, mode = self._storage.fallbacks, self.run.mode if self.run is not None else None
        if gives == "none" and (isinstance(self._storage, Opening) or mode == "exclusive"):
            was = ", and the run was begun where they are" if mode == "exclusive" else ""
            return Check(
                "creates",
                "problem",
                f"objects are not created exclusively here{was}: two trainings could not exclude each other, and a "
                "start is refused; take a root in another store",
            )
        if gives == "none" or mode == "fenced":
            return Check("creates", "note", FENCED.format(fallbacks.get("conditional_writes", "its run file says so")))
        weaker = fallbacks.get("publish")
        if weaker is not None:
            return Check("creates", "note", f"two trainings exclude each other (mode exclusive), but {weaker}")
        return Check("creates", "ok", "two trainings exclude each other: creates are exclusive (mode exclusive)")

    async def _measured(self) -> list[Check]:
        """The rates of one put and one get, and whether what was read is what was written."""
        key, data, into = names.probe(), memoryview(room(PROBE)), memoryview(room(PROBE))
        data[:] = os.urandom(PROBE)
        try:
            async with asyncio.timeout(PATIENCE):
                rates = await written(self._storage, key, data), await read(self._storage, key, into)
        except ObjectNotFound:
            return [Check("bandwidth", "note", "a training has begun meanwhile, and removed the probe: try again")]
        except TimeoutError:
            what = f"{size(PROBE)} could not be written and read within {PATIENCE:g} s: saves will take long"
            return [Check("bandwidth", "problem", what)]
        except AsyncCkptError as error:
            return [_failed("bandwidth", error)]
        finally:
            with suppress(AsyncCkptError):
                await self._storage.delete([key])
        if data != into:
            return [Check("bandwidth", "problem", "what was read is not what was written: do not trust this store")]
        hint = "; read back at once, so maybe out of a cache" if self._is_folder else ""
        return [Check("bandwidth", "ok", f"{size(PROBE)} written at {rates[0]}, read at {rates[1]}{hint}")]

    async def _clock(self) -> Check:
        storage, key = self._storage, names.probe()
        if not isinstance(storage, Dated):
            return Check("clock", "note", "this store does not say when it has stored something: its clock is unknown")
        try:
            async with asyncio.timeout(PATIENCE):
                before = time.time()
                await storage.put(key, [b"probe"])
                after = time.time()
                stored = await storage.stored_at(key)
        except (AsyncCkptError, TimeoutError) as error:
            return _failed("clock", error)
        finally:
            with suppress(AsyncCkptError):
                await storage.delete([key])
        return (
            Check("clock", "note", "the store does not tell its time") if stored is None else _of(stored, before, after)
        )


class _Short:
    """Keeps what is short."""

    def __init__(self) -> None:
        self.found: list[Shortage] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, Shortage):
            self.found.append(event)


def _failed(name: str, error: BaseException) -> Check:
    why = reason(error) if isinstance(error, AsyncCkptError) else f"no answer within {PATIENCE:g} s"
    return Check(name, "problem", f"cannot be tried, and saves will fail: {why}")


def _of(stored: float, before: float, after: float) -> Check:
    """What the clocks say of an object that was stored between `before` and `after`, by this machine's."""
    # Stores tell whole seconds, and cut off the rest.
    ahead, behind = stored - after, before - (stored + 1)
    off = max(ahead, behind)
    if off < _OFF:
        return Check("clock", "ok", f"this machine's clock and the store's agree within {_OFF:g} s")
    whose = "behind" if ahead > behind else "ahead of"
    sentence = (
        f"this machine's clock is {off:.0f} s {whose} the store's: ages, and rules like keep-daily, go by it; "
        "set it (NTP)"
    )
    if off < _FAR_OFF:
        return Check("clock", "note", sentence)
    return Check("clock", "problem", f"{sentence}; stores refuse requests that are signed by a clock so wrong")
