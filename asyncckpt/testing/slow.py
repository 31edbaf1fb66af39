"""Slow: a storage whose requests stop at gates, and fail where told; so tests own the order of events, not time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Literal, TypeAlias

from asyncckpt.storage.base import Buffer, Exclusive, ObjectInfo, Parts, PutMode, Storage, UploadInfo

Request: TypeAlias = Literal["probe", "put", "reply", "get", "head", "list", "delete", "hang"]

PATIENCE = 60.0
"""Seconds after which a test that waits for something that never comes fails instead of hanging."""


class Gate:
    """Holds requests until `open` is called; a cancelled request leaves it. Also a context manager that opens."""

    def __init__(self, text: str) -> None:
        self.is_open = False
        self._text = text
        self._changed = threading.Condition()
        self._held: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._reached = 0

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open()

    def open(self) -> None:
        """Let through what waits here, and everything after it."""
        with self._changed:
            self.is_open = True
            held, self._held = self._held, []
        for loop, future in held:
            with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(_release, future)

    def wait_reached(self, times: int = 1) -> None:
        """Return once `times` requests have arrived here; raises `TimeoutError` where they never do."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._reached >= times, PATIENCE):
                raise TimeoutError(f"the gate at {self._text} was reached {self._reached} times, not {times}")

    async def pass_through(self) -> None:
        """Stop here until the gate is open."""
        with self._changed:
            self._reached += 1
            self._changed.notify_all()
            if self.is_open:
                return
            future = asyncio.get_running_loop().create_future()
            self._held.append((asyncio.get_running_loop(), future))
        await future


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(slots=True)
class _Fault:
    error: Callable[[], BaseException]
    times: int


@dataclass(slots=True)
class _Rule:
    request: Request
    pattern: str
    then: Gate | _Fault

    def covers(self, request: Request, key: str) -> bool:
        """Whether it is in force, and about this request."""
        spent = self.then.is_open if isinstance(self.then, Gate) else self.then.times == 0
        return not spent and request == self.request and fnmatchcase(key, self.pattern)


class GatedStorage(Storage):
    """Passes every request on to `inner`, past the gates and faults that the test has put up.

    Patterns are those of ``fnmatch``; a ``list`` is looked up by its prefix, a ``probe`` by the empty key. The first
    rule in force that covers a request counts, and after a gate the next. Any thread may put one up. ``calls`` has
    every request that arrived, in order. Links are not passed on.
    """

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.calls: list[tuple[Request, str]] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def hold(self, request: Request, pattern: str = "*") -> Gate:
        """From now on such requests wait until the returned gate is opened."""
        gate = Gate(f"{request} {pattern}")
        with self._lock:
            self._rules.append(_Rule(request, pattern, gate))
        return gate

    def fail(
        self, request: Request, pattern: str, error: Callable[[], BaseException], *, times: int | None = None
    ) -> None:
        """The next `times` such requests (all of them where None) raise ``error()``."""
        with self._lock:
            self._rules.append(_Rule(request, pattern, _Fault(error, -1 if times is None else times)))

    def heal(self) -> None:
        """Take all faults down; gates stay."""
        with self._lock:
            self._rules = [rule for rule in self._rules if isinstance(rule.then, Gate)]

    def release(self) -> None:
        """Open every gate and take all faults down."""
        self.heal()
        for rule in self._rules:
            if isinstance(rule.then, Gate):
                rule.then.open()

    def count(self, request: Request, pattern: str = "*") -> int:
        """How many such requests have arrived."""
        return sum(r == request and fnmatchcase(key, pattern) for r, key in tuple(self.calls))

    async def _arrive(self, request: Request, key: str) -> None:
        with self._lock:
            self.calls.append((request, key))
        while (then := self._rule(request, key)) is not None:
            if isinstance(then, _Fault):
                raise then.error()
            await then.pass_through()

    def _rule(self, request: Request, key: str) -> Gate | _Fault | None:
        with self._lock:
            then = next((rule.then for rule in self._rules if rule.covers(request, key)), None)
            if isinstance(then, _Fault):
                then.times -= 1
            return then

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
        await self._arrive("probe", "")
        return await self.inner.probe()

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """See `Storage.put`; once it was carried out, it also is a ``reply`` on its way back."""
        await self._arrive("put", key)
        info = await self.inner.put(key, parts, length=length, mode=mode)
        await self._arrive("reply", key)
        return info

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """See `Storage.get`."""
        await self._arrive("get", key)
        return await self.inner.get(key, start=start, length=length, into=into)

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Storage.head`."""
        await self._arrive("head", key)
        return await self.inner.head(key)

    async def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `Storage.list`."""
        await self._arrive("list", prefix)
        async for found in self.inner.list(prefix, start_after):
            yield found

    async def delete(self, keys: Sequence[str]) -> None:
        """See `Storage.delete`; every key is looked up before anything is deleted."""
        for key in keys:
            await self._arrive("delete", key)
        await self.inner.delete(keys)

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """See `Storage.uploads`."""
        async for found in self.inner.uploads(prefix):
            yield found

    async def abort(self, upload: UploadInfo) -> None:
        """See `Storage.abort`."""
        await self.inner.abort(upload)

    async def aclose(self) -> None:
        """See `Storage.aclose`."""
        await self.inner.aclose()
