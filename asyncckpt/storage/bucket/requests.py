"""Requests: one request, carried out reliably: tried again with growing, random pauses, each attempt within a deadline.

The client below does not try again by itself where this does: only who sees every attempt knows whether one of them may
have been carried out although its answer was lost.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypeVar

from asyncckpt.errors import OutcomeUnknown, StorageError
from asyncckpt.storage.bucket.faults import RENEWABLE, Fault
from asyncckpt.storage.bucket.pressure import Pressure
from asyncckpt.storage.bucket.tuning import Tuning

logger = logging.getLogger("asyncckpt")

_T = TypeVar("_T")

Attempt: TypeAlias = Callable[[Any], Awaitable[_T]]
"""Asks the client that it is given once."""

LONGEST_PAUSE = 5.0


class Connection(Protocol):
    """A library's client for one bucket."""

    async def client(self) -> Any:
        """What attempts are made with. It is made with the credentials that there are then, after `renew`."""
        ...

    def renew(self, client: Any) -> None:
        """The credentials of that `client` were refused; of several that are told so at once the first counts."""
        ...

    def fault_of(self, error: Exception) -> Fault:
        """What `error`, raised by an attempt, means."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class Failed(Exception):
    """A request that is not tried again; the store turns it into an error of this package."""

    def __init__(self, fault: Fault, *, is_unknown: bool) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self._is_unknown = is_unknown

    def error(self, what: str) -> StorageError:
        """The same as this package raises it, about `what`."""
        if self._is_unknown:
            message = f"{what}: whether it was stored is not known: {self.fault.message}"
            return OutcomeUnknown(errno.EIO, message)
        return self.fault.error(what)


_JITTER = random.Random()  # noqa: S311 -- not the generator of all: training may draw from that, and is to draw the same


class Requests:
    """What one store asks its server; all on one event loop. `retries` counts by reason what was tried again.

    Once the store refuses its credentials, those that there are by then are asked for, and it is tried with them once.
    """

    def __init__(self, url: str, tuning: Tuning, connection: Connection, retries: Counter[str] | None = None) -> None:
        self.retries: Counter[str] = Counter() if retries is None else retries
        self.tuning = tuning
        self.connection = connection
        self.url = url
        self._pressure: Pressure | None = None

    @property
    def limit(self) -> int:
        """How many requests the store gets at once now."""
        return self.tuning.concurrency if self._pressure is None else self._pressure.limit

    async def make(self, attempt: Attempt[_T], settle: Callable[[], Awaitable[_T | None]] | None = None) -> _T:
        """What `attempt` returns; raises `Failed`.

        With `settle` an attempt that may have been carried out is looked after before the next.
        """
        lost, renewed, until = False, False, time.monotonic() + self.tuning.patience
        for number in range(1, self.tuning.attempts + 1):
            try:
                return await self._once(attempt)
            except Exception as error:
                if isinstance(error, StorageError):
                    raise
                fault = self.connection.fault_of(error)
                if settle is not None and fault.kind == "missing":
                    # What is put needs nothing that is there; but a server that keeps objects in folders may remove
                    # one, which has lost its last object, just as another comes there (JuiceFS's gateway).
                    fault = replace(fault, kind="transient", reason="folder")
                lost = lost or fault.applied
                if fault.reason in RENEWABLE and not renewed and number < self.tuning.attempts:
                    renewed = True
                    self.retries["credentials"] += 1
                    continue
                is_last = number == self.tuning.attempts or fault.kind != "transient" or time.monotonic() > until
                if is_last and lost and settle is not None and (settled := await settle()) is not None:
                    return settled
                if is_last:
                    is_open = lost and fault.kind in ("transient", "other", "no_upload")
                    raise Failed(fault, is_unknown=settle is not None and is_open) from error
            self.retries[fault.reason] += 1
            logger.debug("%s: attempt %d: %s", self.url, number, fault.message)
            pause = min(LONGEST_PAUSE, self.tuning.pause * 2**number)
            await asyncio.sleep(_JITTER.uniform(0, pause))  # so that many clients do not come back at once
        raise AssertionError("unreachable")

    async def find(self, attempt: Attempt[_T]) -> _T | None:
        """As `make`; None where what it asks for is not there."""
        try:
            return await self.make(attempt)
        except Failed as failed:
            if failed.fault.kind != "missing":
                raise
            return None

    async def _once(self, attempt: Attempt[_T]) -> _T:
        if self._pressure is None:
            self._pressure = Pressure(self.tuning.concurrency)
        client: Any = None
        try:
            async with self._pressure, asyncio.timeout(self.tuning.deadline):
                client = await self.connection.client()
                result = await attempt(client)
        except Exception as error:
            self.judge(error, client)
            raise
        self._pressure.press()
        return result

    async def begin(self, attempt: Attempt[_T]) -> _T:
        """What `attempt` returns, which makes requests again by itself; raises `Failed`."""
        client: Any = None
        try:
            client = await self.connection.client()
            return await attempt(client)
        except StorageError:
            raise
        except Exception as error:
            raise Failed(self.judge(error, client), is_unknown=False) from error

    def judge(self, error: Exception, client: Any) -> Fault:
        """What `error` means, which `client` has met, and which is minded from now on."""
        fault = self.connection.fault_of(error)
        if self._pressure is not None:
            if fault.reason in ("slow_down", "timeout"):  # on a slow line fewer parts at once are each there in time
                self._pressure.ease()
            elif fault.kind != "transient":
                self._pressure.press()
        if fault.reason in RENEWABLE:
            self.connection.renew(client)
        return fault
