"""Requests: one request, carried out reliably: tried again with growing, random pauses, each attempt within a deadline.

The client below never tries again by itself: only who sees every attempt knows whether one of them may have been
carried out although its answer was lost.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from asyncckpt.errors import OutcomeUnknown, StorageError
from asyncckpt.storage.extras import needed
from asyncckpt.storage.s3.pressure import Pressure
from asyncckpt.storage.s3.reasons import RENEWABLE, Fault, fault_of
from asyncckpt.storage.s3.sockets import Sockets
from asyncckpt.storage.s3.tuning import Tuning

logger = logging.getLogger("asyncckpt")

_T = TypeVar("_T")

Attempt: TypeAlias = Callable[[Any], Awaitable[_T]]
"""Asks the client that it is given once."""

Settle: TypeAlias = Callable[[], Awaitable[_T | None]]
"""Finds out what an attempt whose answer was lost has done: its result, or None where nothing."""

_LONGEST_PAUSE = 5.0


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


class Refused(Exception):
    """One of several things that one request asked for was refused; `response` is as the client has it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("Message") or error.get("Code"))
        self.response = {"Error": dict(error)}


class Requests:
    """What one store asks its server; all on one event loop. `retries` counts by reason what was tried again.

    Once the store refuses its credentials, the next request asks for those that there are then.
    """

    def __init__(self, url: str, bucket: str, options: Mapping[str, Any], tuning: Tuning) -> None:
        self.retries: Counter[str] = Counter()
        self.tuning = tuning
        self._url = url
        self._bucket = bucket
        self._options = options
        self._pressure: Pressure | None = None
        self._files: Any = None
        self._left: list[Any] = []
        """Clients whose credentials were refused; others may be in the middle of a request still."""
        self._opening: asyncio.Lock | None = None
        self._sockets = Sockets(tuning.read_timeout)

    async def make(self, attempt: Attempt[_T], settle: Settle[_T] | None = None) -> _T:
        """What `attempt` returns; raises `Failed`.

        With `settle` an attempt that may have been carried out is looked after before the next.
        """
        lost, until = False, time.monotonic() + self.tuning.patience
        for number in range(1, self.tuning.attempts + 1):
            try:
                return await self._once(attempt)
            except Exception as error:
                if isinstance(error, StorageError):
                    raise
                fault = fault_of(error)
                lost = lost or fault.applied
                is_last = number == self.tuning.attempts or fault.kind != "transient" or time.monotonic() > until
                if is_last and lost and settle is not None and (settled := await settle()) is not None:
                    return settled
                if is_last:
                    is_open = lost and fault.kind in ("transient", "other", "no_upload")
                    raise Failed(fault, is_unknown=settle is not None and is_open) from error
            self.retries[fault.reason] += 1
            logger.debug("%s: attempt %d: %s", self._url, number, fault.message)
            pause = min(_LONGEST_PAUSE, self.tuning.pause * 2**number)
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 -- so that many clients do not come back at once
        raise AssertionError("unreachable")

    async def _once(self, attempt: Attempt[_T]) -> _T:
        if self._pressure is None:
            self._pressure = Pressure(self.tuning.concurrency)
        try:
            async with self._pressure, asyncio.timeout(self.tuning.deadline):
                result = await attempt(await self._client())
        except Exception as error:
            fault = fault_of(error)
            if fault.reason in ("slow_down", "timeout"):  # on a slow line fewer parts at once are each there in time
                self._pressure.ease()
            elif fault.kind != "transient":
                self._pressure.press()
            if fault.reason in RENEWABLE and self._files is not None:
                self._left.append(self._files)
                self._files = None
            raise
        self._pressure.press()
        return result

    async def _client(self) -> Any:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._files is None:
                self._files = await self._opened()
            return await self._files.get_s3(self._bucket)

    async def _opened(self) -> Any:
        s3fs = needed("s3fs", "s3", self._url)
        config = {
            "connect_timeout": self.tuning.connect_timeout,
            "read_timeout": self.tuning.read_timeout,
            "max_pool_connections": self.tuning.concurrency + 4,
            "connector_args": {"socket_factory": self._sockets.make},
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            # Every body has a checksum of its own, which the store checks; hashing it for the signature as well
            # would take longer than sending it.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "s3": {"payload_signing_enabled": False},
            **self._options.get("config_kwargs", {}),
        }
        options = {
            **self._options,
            "config_kwargs": config,
            "asynchronous": True,
            "loop": asyncio.get_running_loop(),
            "skip_instance_cache": True,
            "use_listings_cache": False,
        }
        try:
            files = s3fs.S3FileSystem(**options)
            client = await files.set_session()
        except (TypeError, KeyError) as error:
            raise StorageError(f"{self._url}: storage_options that s3fs does not take: {error}") from error
        client.meta.events.register("before-send.s3", _without_expectation)
        client.meta.events.register("before-sign.s3.DeleteObjects", _with_md5)
        return files

    async def aclose(self) -> None:
        """Close the connections."""
        for files in [*self._left, self._files]:
            if files is not None:
                client = await files.get_s3()
                await client.close()
        self._left, self._files = [], None
        await self._sockets.shut()


def _without_expectation(request: Any, **_: object) -> None:
    # It would make each part wait for a word of the store before the first byte.
    if "Expect" in request.headers:
        del request.headers["Expect"]


def _with_md5(request: Any, **_: object) -> None:
    # Older stores demand it, and clients no longer send it.
    digest = hashlib.md5(request.data or b"", usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()
