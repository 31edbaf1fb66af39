"""Bounded: a store that nobody waits for once it goes on no more.

A disk that hangs holds whoever asks it, and nothing takes a thread back that the kernel holds. So it is the waiting
that ends: a request that has not gone on for `PATIENCE` seconds is left behind. It fails for whoever has asked, and
ends by itself, or never does. Until then the store is asked for nothing else, and says so at once: a disk that hangs
costs one wait, and holds what was under way then, and not something of every save after that.

A request goes on when a put takes its next part, and when a listing has its next object; while a put waits for what it
is fed with, it is not the store that is late. What is read is read into memory that nobody else has, and copied from
there to where it belongs: what was left behind may still be written to when that is somebody else's.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent import futures
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from asyncckpt.errors import OutcomeUnknown, StorageError, TransientError
from asyncckpt.storage.aside import OpenedAside
from asyncckpt.storage.base import (
    Buffer,
    Dated,
    Exclusive,
    Lasting,
    Linking,
    ObjectInfo,
    Opened,
    Opening,
    Parts,
    PutMode,
    Storage,
    UploadInfo,
)
from asyncckpt.storage.recipe import Recipe, recipe_of
from asyncckpt.storage.spans import span
from asyncckpt.storage.threads import Threads

logger = logging.getLogger("asyncckpt")
_T = TypeVar("_T")
_Work: TypeAlias = "asyncio.Task[Any] | futures.Future[Any]"

PATIENCE = 60.0
"""Seconds for which a request may stand still: as long as an object store has for one attempt at one."""

HURRY = 5.0
"""The same where there is no time: before a start, in an emergency, and for whoever is told to stop."""

LOOK = 1.0
_FEW = 16
_PIECE = 8 << 20
"""Bytes that are read at a time where they have to be copied."""


class Asked:
    """A request under way, by what it asks for: how long it stands still, and whether it was left behind."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.is_left = False
        self._since: float | None = time.monotonic()

    def goes_on(self) -> None:
        """The store has taken the next part, or given the next object."""
        self._since = time.monotonic()

    def is_fed(self) -> None:
        """It waits for its next part, which is not the store's doing."""
        self._since = None

    @property
    def still(self) -> float:
        """Seconds since it has gone on."""
        return 0.0 if self._since is None else time.monotonic() - self._since


class Bounded(Storage):
    """`inner`, which is waited for no longer than for one that goes on; from any number of event loops."""

    way_out = ""
    """What whoever waits no more is told to do."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.is_hurried = False
        """Whether what is asked now has to be over soon."""
        self._left: dict[_Work, str] = {}
        self._threads = Threads()

    @property
    def is_held(self) -> bool:
        """Whether something that was left behind is under way still."""
        return bool(self._left)

    @property
    def _patience(self) -> float:
        return min(HURRY, PATIENCE) if self.is_hurried else PATIENCE

    async def stands_still(self, asked: Asked) -> None:
        """Return once nobody waits for that any more."""
        while True:
            if (left := self._patience - asked.still) <= 0:
                return
            await asyncio.sleep(min(left, LOOK))  # it may have to be over sooner by then

    async def within(self, what: str, ask: Callable[[Asked], Coroutine[Any, Any, _T]]) -> _T:
        """What `ask` returns or raises; where it is left behind `TransientError`, or `OutcomeUnknown` of a put.

        While the store is held nothing is asked, and `TransientError` is raised at once.
        """
        self.check()
        asked = Asked(what)
        work = asyncio.ensure_future(ask(asked))
        waiting = asyncio.ensure_future(self.stands_still(asked))
        try:
            await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._stop(asked, work)
            raise
        finally:
            waiting.cancel()
        if work.done():
            return work.result()
        raise self._leave(asked, work)

    async def blocking(self, what: str, act: Callable[[], _T]) -> _T:
        """As `within`, of what blocks: it is done in a thread. Its OSError is raised translated."""
        return await self.within(what, lambda asked: self._threads.call(self.url, act))

    async def _stop(self, asked: Asked, work: asyncio.Task[Any]) -> None:
        """Have it end, for whoever waits no more; what does not end is left behind."""
        work.cancel()
        try:
            await asyncio.wait({work}, timeout=max(0.0, min(HURRY, PATIENCE) - asked.still))
        finally:
            if work.done():
                _seen(work)
            else:
                self._leave(asked, work)

    def _leave(self, asked: Asked, work: _Work) -> StorageError:
        asked.is_left = True
        late = f"{asked.what} has not gone on for {asked.still:.0f} s"
        said = f"{self.url}: {late}: its disk, or its server, hangs{self.way_out_of(asked.what)}"
        self._left[work] = said
        work.add_done_callback(self._is_back)
        return (OutcomeUnknown if asked.what.startswith("put ") else TransientError)(said)

    def way_out_of(self, what: str) -> str:
        """What whoever has asked for `what` is told to do."""
        return self.way_out

    def _is_back(self, work: _Work) -> None:
        _seen(work)
        self._left.pop(work, None)
        if not self._left:
            logger.warning("%s answers again", self.url)

    def check(self) -> None:
        """Raise `TransientError` while it is held: what is there is neither damaged nor gone."""
        for said in tuple(self._left.values()):
            raise TransientError(f"{said}; nothing else is asked of it before that has ended")

    async def _fed(self, asked: Asked, parts: AsyncIterable[Buffer]) -> AsyncIterator[Buffer]:
        feeding = aiter(parts)
        while True:
            # A put that was left behind ends here, as soon as it comes back from what holds it: it is given nothing
            # more. By then whoever had asked for it may have let the memory go that it was given, and another save is
            # copied there. What holds the put may read that memory still, a write in the kernel or a part on its way
            # to a server, and harms nobody: it only reads, the memory stays mapped for as long as a part refers to it,
            # and what becomes of the bytes is nothing that counts. Mostly there is no object: whatever asks for a next
            # part is not published. One that had its last part before is an object whose name no record will ever have,
            # since whoever was told that its outcome is not known never uses the name again.
            if asked.is_left:
                raise TransientError(f"{asked.what}: nobody waits for it any more")
            asked.is_fed()
            try:
                part = await anext(feeding)
            except StopAsyncIteration:
                return
            finally:
                asked.goes_on()
            yield part

    # -- Storage -------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """That of `inner`."""
        return self.inner.url

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """Those of `inner`."""
        return self.inner.fallbacks

    def recipe(self) -> Recipe | None:
        """That of `inner`: whoever has it in another process waits as long as it likes."""
        return recipe_of(self.inner)

    async def probe(self) -> Exclusive:
        """See `Storage.probe`."""
        return await self.within("probe", lambda asked: self.inner.probe())

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """See `Storage.put`; one that is left behind raises `OutcomeUnknown`."""

        def put(asked: Asked) -> Coroutine[Any, Any, ObjectInfo]:
            fed: Parts = parts
            if isinstance(parts, Lasting):
                fed = Lasting(self._fed(asked, parts), parts.at_most)
            elif isinstance(parts, AsyncIterable):
                fed = self._fed(asked, parts)
            return self.inner.put(key, fed, length=length, mode=mode)

        return await self.within(f"put {key}", put)

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """See `Storage.get`; bytes come to be in `into` only while they are waited for."""
        if into is None:
            return await self._got(key, start, length)
        target = memoryview(into)
        if length is None:  # whether it is all there is has to be known before
            whole = await self._got(key, start, None)
            span(key, start + len(whole), start, None, into)
            target[:] = whole
            return target
        span(key, start + length, start, length, into)
        for at in range(0, max(length, 1), _PIECE):
            await self._fill(key, start + at, target[at : at + _PIECE])
        return target

    async def _fill(self, key: str, start: int, piece: memoryview) -> None:
        piece[:] = await self._got(key, start, len(piece))

    async def _got(self, key: str, start: int, length: int | None) -> memoryview:
        return await self.within(f"get {key}", lambda asked: self.inner.get(key, start=start, length=length))

    async def get_each(self, keys: Sequence[str]) -> list[memoryview | StorageError]:
        """See `Storage.get_each`."""
        return await self.within(f"get {len(keys)} objects", lambda asked: self.inner.get_each(keys))

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Storage.head`."""
        return await self.within(f"head {key}", lambda asked: self.inner.head(key))

    async def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `Storage.list`."""
        listed = await self.within(f"list {prefix}", lambda asked: _all(asked, self.inner.list(prefix, start_after)))
        for found in listed:
            yield found

    async def delete(self, keys: Sequence[str]) -> None:
        """See `Storage.delete`; a few at a time, since big files may take seconds each."""
        failed: list[StorageError] = []
        for at in range(0, len(keys), _FEW):
            few = keys[at : at + _FEW]
            try:
                await self.within(f"delete {few[0]}", functools.partial(self._delete, few))
            except StorageError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def _delete(self, keys: Sequence[str], asked: Asked) -> None:
        await self.inner.delete(keys)

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """See `Storage.uploads`."""
        for found in await self.within("list unfinished", lambda asked: _all(asked, self.inner.uploads(prefix))):
            yield found

    async def abort(self, upload: UploadInfo) -> None:
        """See `Storage.abort`."""
        await self.within("abort", lambda asked: self.inner.abort(upload))

    async def aclose(self) -> None:
        """See `Storage.aclose`; what is held is left to itself."""
        self._threads.pool.shutdown(wait=False)
        if self.is_held:
            logger.warning("%s is left as it is: it hangs", self.url)
        else:
            await self.inner.aclose()


@runtime_checkable
class Disk(Opening, Linking, Dated, Protocol):
    """A store whose objects can be kept open, linked to, and dated."""


class BoundedDisk(Bounded):
    """One that is such a `disk`."""

    def __init__(self, inner: Storage, disk: Disk) -> None:
        super().__init__(inner)
        self._disk = disk

    def open(self, key: str) -> Opened:
        """See `Opening.open`; what it reads is copied from memory of its own."""
        opened = self.waited(f"open {key}", lambda asked: self._disk.open(key), undo=lambda late: late.close())
        return OpenedAside(opened, functools.partial(self._read, f"get {key}"), self._closed)

    def _read(self, what: str, act: Callable[[], None]) -> None:
        self.waited(what, lambda asked: act())

    def waited(self, what: str, act: Callable[[Asked], _T], undo: Callable[[_T], object] = lambda result: None) -> _T:
        """As `within`, of what blocks, for a thread that does; what comes of it too late is undone."""
        self.check()
        asked = Asked(what)
        work = self._threads.pool.submit(act, asked)
        try:
            while not work.done() and (left := self._patience - asked.still) > 0:
                futures.wait([work], min(left, LOOK))
        except BaseException:  # whoever is interrupted goes on with what it is about
            asked.is_left = True
            futures.wait([work], min(HURRY, PATIENCE))
            self._late(asked, work, undo)
            raise
        if work.done():
            return work.result()
        raise self._late(asked, work, undo)

    def _late(self, asked: Asked, work: futures.Future[_T], undo: Callable[[_T], object]) -> StorageError:
        left = self._leave(asked, work)
        work.add_done_callback(lambda late: None if late.exception() else undo(late.result()))
        return left

    def _closed(self, close: Callable[[], None]) -> None:
        """Have it closed: also where it hangs, and in whatever thread the last one is that has it."""
        try:
            closing = self._threads.pool.submit(close)
        except RuntimeError:  # nobody waits here for anything any more
            close()
        else:
            futures.wait([closing], 0 if self.is_held else min(HURRY, PATIENCE))

    async def link(self, name: str, key: str) -> None:
        """See `Linking.link`."""
        await self.within(f"link {name}", lambda asked: self._disk.link(name, key))

    async def stored_at(self, key: str) -> float | None:
        """See `Dated.stored_at`."""
        return await self.within(f"look at {key}", lambda asked: self._disk.stored_at(key))


class BoundedReading(BoundedDisk):
    """One for whoever reads alone, into memory that nobody else has or gets once a request was left behind."""

    way_out = (
        "; mend that (umount -f, or its server), or load another copy: a mirror, or the root that a local tier is of"
    )

    async def _fill(self, key: str, start: int, piece: memoryview) -> None:
        await self.within(f"get {key}", lambda asked: self.inner.get(key, start=start, length=len(piece), into=piece))


def bounded(storage: Storage) -> Bounded:
    """`storage`, which nobody waits for once it goes on no more."""
    if isinstance(storage, Bounded):
        return storage
    return BoundedDisk(storage, storage) if isinstance(storage, Disk) else Bounded(storage)


def bounded_disk(storage: Storage) -> Storage:
    """`storage`, bounded where it is a disk: others have deadlines of their own."""
    return bounded(storage) if isinstance(storage, Disk) else storage


def bounded_reading(storage: Storage) -> Storage:
    """The same for one who reads as in `BoundedReading`, which costs no copy."""
    return BoundedReading(storage, storage) if isinstance(storage, Disk) else storage


def unbounded(storage: Storage) -> Storage:
    """What `storage` is in the end, for whoever has to know its kind."""
    return storage.inner if isinstance(storage, Bounded) else storage


async def _all(asked: Asked, found: AsyncIterator[_T]) -> list[_T]:
    listed = []
    async for each in found:
        asked.goes_on()
        listed.append(each)
    return listed


def _seen(work: _Work) -> None:
    """Nobody asks for it, and asyncio would complain."""
    if not work.cancelled():
        work.exception()
