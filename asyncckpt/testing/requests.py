"""Requests: what a network can do to a single one of them, found by its number, so that a test can try every one.

::

    for number in range(count):
        faulty = FaultyStorage(MemoryStorage())
        pause = faulty.pause(number)
        writer = asyncio.create_task(act(faulty))
        await pause.reached(writer)         # stopped before that request, or over
        await act_too(faulty.inner)
        pause.release()
        await writer
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from asyncckpt.errors import OutcomeUnknown, StorageError, TransientError
from asyncckpt.storage.base import Buffer, Exclusive, ObjectInfo, Parts, PutMode, Storage, UploadInfo

_T = TypeVar("_T")
_Apply = Callable[[], Awaitable[object]]


class Pause:
    """Stops one request before it is carried out, until `release`; all on one event loop."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def reached(self, sender: asyncio.Future[Any]) -> bool:
        """Wait until the request has come; False if `sender` ended without it."""
        waiting = asyncio.ensure_future(self._reached.wait())
        await asyncio.wait({waiting, sender}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return self._reached.is_set()

    def release(self) -> None:
        """Let the request go on, also one that has not come yet."""
        self._released.set()

    async def pass_through(self) -> None:
        self._reached.set()
        await self._released.wait()


class FaultyStorage(Storage):
    """Passes requests on to `inner`; what shall happen to one is set by its number, counted from 0 as they arrive.

    ``requests`` has them in words, ``create commits/0000000001.json``. Several writers may share one instance, and
    with it the count. A listing is one request, carried out when the iteration begins. Links are not passed on.
    """

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.requests: list[str] = []
        self._pauses: dict[int, Pause] = {}
        self._refused: dict[int, Callable[[], StorageError]] = {}
        self._lost: dict[int, Callable[[], StorageError]] = {}
        self._repeated: dict[int, int] = {}
        self._delayed: dict[int, int] = {}
        self._due: dict[int, list[_Apply]] = {}

    def pause(self, number: int) -> Pause:
        """Stop before it is carried out."""
        return self._pauses.setdefault(number, Pause())

    def refuse(self, number: int, error: Callable[[], StorageError] = TransientError) -> None:
        """It is not carried out."""
        self._refused[number] = error

    def lose_reply(self, number: int, error: Callable[[], StorageError] = OutcomeUnknown) -> None:
        """It is carried out, and its sender is told an error."""
        self._lost[number] = error

    def repeat(self, number: int, *, after: int) -> None:
        """If it is a put, it is carried out a second time right after request `after`."""
        self._repeated[number] = after

    def delay(self, number: int, *, after: int) -> None:
        """If it is a put, it is carried out only right after request `after`; its sender is told `OutcomeUnknown`."""
        self._delayed[number] = after

    async def applied(self, request: str) -> None:
        """A request has been carried out; for subclasses that look at the store."""

    async def _send(self, request: str, apply: Callable[[], Awaitable[_T]]) -> _T:
        number = len(self.requests)
        self.requests.append(request)
        if number in self._pauses:
            await self._pauses[number].pass_through()
        if number in self._refused:
            raise self._refused[number]()
        result = await apply()
        await self._after(number, request)
        if number in self._lost:
            raise self._lost[number]()
        return result

    async def _after(self, number: int, request: str) -> None:
        await self.applied(request)
        for late in self._due.pop(number, []):
            try:
                await late()
            except StorageError:
                continue  # nobody hears the answer
            await self.applied(f"late {request}")

    # -- Storage -------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """That of `inner`."""
        return self.inner.url

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """Those of `inner`."""
        return self.inner.fallbacks

    async def probe(self) -> Exclusive:
        """See `Storage.probe`."""
        return await self._send("probe", self.inner.probe)

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """See `Storage.put`."""
        whole = await _joined(parts)
        number = len(self.requests)

        async def apply() -> ObjectInfo:
            return await self.inner.put(key, [whole], length=length, mode=mode)

        async def begin() -> ObjectInfo:
            if number in self._delayed:
                self._due.setdefault(self._delayed[number], []).append(apply)
                raise OutcomeUnknown(f"{key}: no answer")
            if number in self._repeated:
                self._due.setdefault(self._repeated[number], []).append(apply)
            return await apply()

        return await self._send(f"{'create' if mode == 'create' else 'put'} {key}", begin)

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """See `Storage.get`."""
        return await self._send(f"get {key}", lambda: self.inner.get(key, start=start, length=length, into=into))

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Storage.head`."""
        return await self._send(f"head {key}", lambda: self.inner.head(key))

    async def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `Storage.list`."""
        for found in await self._send(f"list {prefix}", lambda: _all(self.inner.list(prefix, start_after))):
            yield found

    async def delete(self, keys: Sequence[str]) -> None:
        """See `Storage.delete`."""
        await self._send(" ".join(["delete", *keys]), lambda: self.inner.delete(keys))

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """See `Storage.uploads`."""
        for found in await self._send(f"uploads {prefix}", lambda: _all(self.inner.uploads(prefix))):
            yield found

    async def abort(self, upload: UploadInfo) -> None:
        """See `Storage.abort`."""
        await self._send(f"abort {upload.upload}", lambda: self.inner.abort(upload))

    async def aclose(self) -> None:
        """Close `inner`; no request."""
        await self.inner.aclose()


async def _joined(parts: Parts) -> bytes:
    if not isinstance(parts, AsyncIterable):
        return b"".join(parts)
    return b"".join([bytes(part) async for part in parts])


async def _all(found: AsyncIterator[_T]) -> list[_T]:
    return [each async for each in found]
