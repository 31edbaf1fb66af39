"""Upload: one object in parts that obstore sends, a window of them at a time, and tries again by itself.

It asks for the next part when there is room. Its uploads have no name that could be known here: what ends one early is
an exception in the place of a part, upon which it aborts the upload; and after the last part it completes it at once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from asyncckpt.storage.bucket.client import Settle
from asyncckpt.storage.bucket.requests import Failed, Requests

_PART = re.compile(r"Error performing PUT (?!\S*comp=blocklist)")  # which is how Azure completes one
_ABORT = re.compile(r"Error performing DELETE ")


class _Aborted(Exception):
    """The object is not wanted any more."""


class _Feed:
    """The parts, each when it is asked for."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[asyncio.Future[memoryview | None]] = asyncio.get_running_loop().create_future()
        self.aborted = False

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> memoryview:
        part: asyncio.Future[memoryview | None] = asyncio.get_running_loop().create_future()
        if self.aborted:
            raise _Aborted
        self._asked.set_result(part)
        memory = await part
        if self.aborted:
            raise _Aborted
        if memory is None:
            raise StopAsyncIteration
        return memory

    async def asked(self, ends: asyncio.Future[Any]) -> bool:
        """Wait until a part is wanted; False if `ends` has ended before."""
        await asyncio.wait({self._asked, ends}, return_when=asyncio.FIRST_COMPLETED)
        return self._asked.done()

    def give(self, memory: memoryview | None) -> None:
        """Hand over the part that was asked for; None for the end."""
        part = self._asked.result()
        self._asked = asyncio.get_running_loop().create_future()
        part.set_result(memory)

    def abort(self) -> None:
        """Give an error in the place of the next part."""
        self.aborted = True
        if self._asked.done():
            self.give(None)


class ObstoreUpload:
    """One upload; all on one event loop, one call after the other.

    `put` begins it, with what to ask for parts; `sweep` removes what obstore could not. At most a window of parts is
    under way, one waits for room there, and one is wanted.
    """

    def __init__(
        self,
        requests: Requests,
        put: Callable[[Any, _Feed], asyncio.Future[Any]],
        sweep: Callable[[], Awaitable[None]],
    ) -> None:
        self._requests = requests
        self._put = put
        self._sweep = sweep
        self._feed: _Feed | None = None
        self._sending: asyncio.Future[Any] | None = None
        self._stores: Any = None

    async def begin(self) -> None:
        """See `Upload.begin`; obstore has begun it when it asks for a part."""

        async def attempt(stores: Any) -> None:
            self._stores, self._feed = stores, _Feed()
            self._sending = asyncio.ensure_future(self._put(stores, self._feed))
            if not await self._feed.asked(self._sending):
                self._sending.result()

        await self._requests.begin(attempt)

    async def add(self, memory: memoryview) -> None:
        """See `Upload.add`."""
        feed, sending = self._begun()
        if not await feed.asked(sending):
            self._raise(sending, is_shown=False)
        feed.give(memory)

    async def sent(self) -> None:
        """See `Upload.sent`: obstore tells only when the object is complete, too."""

    async def complete(self, settle: Settle) -> None:
        """See `Upload.complete`."""
        feed, sending = self._begun()
        if await feed.asked(sending):
            feed.give(None)
        await asyncio.wait({sending})
        if sending.exception() is not None and await settle() is None:
            self._raise(sending, is_shown=_PART.search(str(sending.exception())) is None)

    async def abort(self, within: float | None) -> None:
        """See `Upload.abort`; obstore itself has half of that time, and who finds uploads that were left the other."""
        if self._sending is None or self._feed is None:
            return
        self._feed.abort()
        patience = self._requests.tuning.read_timeout
        async with asyncio.timeout(within):
            await asyncio.wait({self._sending}, timeout=patience if within is None else min(patience, within / 2))
            if self._sending.cancel() or _ABORT.search(str(self._sending.exception())) is not None:
                await self._sweep()

    def _begun(self) -> tuple[_Feed, asyncio.Future[Any]]:
        if self._feed is None or self._sending is None:
            raise RuntimeError("this upload was not begun")
        return self._feed, self._sending

    def _raise(self, sending: asyncio.Future[Any], *, is_shown: bool) -> None:
        """Raise what has ended it; whether it was shown all the same is not known after a request for that."""
        error = sending.exception()
        if not isinstance(error, Exception):
            raise RuntimeError("obstore ended an upload that had more parts")
        fault = self._requests.judge(error, self._stores)
        is_open = is_shown and fault.kind in ("transient", "other", "no_upload", "missing")
        raise Failed(fault, is_unknown=is_open) from error
