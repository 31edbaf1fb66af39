"""Fresh: what was found out by a look, and another look once that is old. Whoever asks never waits for long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from asyncckpt.configuration.masking import without_logins
from asyncckpt.errors import AsyncCkptError
from asyncckpt.serve.reader import ANSWER, Reader, StoreSlow

logger = logging.getLogger("asyncckpt")

_T = TypeVar("_T")

LATER = 2.0
"""Seconds that somebody waits for a look where something older can be shown."""
LONG, SELDOM = 1.0, 10.0
"""A look that took more seconds than that is repeated only after so many times as long."""


@dataclass(frozen=True)
class Known(Generic[_T]):
    """A `value` as of `at`, Unix time. `trouble` is in words why nothing newer is known."""

    value: _T
    at: float
    trouble: str = ""


class Fresh(Generic[_T]):
    """What `look` finds; it is asked by the `reader`, one look at a time, and again when `pause` seconds have gone."""

    def __init__(self, what: str, reader: Reader, look: Callable[[], Coroutine[Any, Any, _T]], pause: float) -> None:
        self.pause = pause
        self._what = what
        self._reader = reader
        self._look = look
        self._lock = threading.Lock()
        self._under_way: Future[_T] | None = None
        self._known: tuple[_T, float] | None = None
        self._error: Exception | None = None
        self._looked = 0.0
        self._took = 0.0

    def ahead(self) -> None:
        """Begin a look, if what is known is old."""
        self._begun()

    def now(self, patience: float = ANSWER) -> Known[_T]:
        """What is known, not older than `pause` where the store answers in time: within `patience` at most.

        Raises what the look raised, or `StoreSlow`, where nothing is known at all.
        """
        look = self._begun()
        if look is not None:
            wait([look], min(patience, LATER) if self._known else patience)
        with self._lock:
            return self._told(is_late=self._under_way is not None)

    def _begun(self) -> Future[_T] | None:
        with self._lock:
            pause = max(self.pause, SELDOM * self._took) if self._took > LONG else self.pause
            is_old = not self._looked or time.monotonic() - self._looked >= pause
            if self._under_way is None and is_old:
                self._under_way = self._reader.submit(self._looking())
            return self._under_way

    async def _looking(self) -> _T:
        began = time.monotonic()
        try:
            value = await self._look()
        except Exception as error:  # whoever asks is told of it
            if not isinstance(error, AsyncCkptError):
                logger.exception("%s could not be read", self._what)
            with self._lock:
                self._error = error
            raise
        else:
            with self._lock:
                self._known, self._error = (value, time.time()), None
            return value
        finally:
            with self._lock:
                self._looked, self._under_way = time.monotonic(), None
                self._took = self._looked - began

    def _told(self, *, is_late: bool) -> Known[_T]:
        if self._known is None:
            if self._error is not None:
                raise self._error.with_traceback(None)
            raise StoreSlow(
                f"{self._what} has not answered yet: load this page again in a while; where its disk, or its server, "
                "hangs, mend that (umount -f)"
            )
        value, at = self._known
        trouble = sentence(self._error) if self._error else "the store has not answered yet" if is_late else ""
        return Known(value, at, trouble)


def sentence(error: Exception) -> str:
    """What `error` says, without the number that an `OSError` puts before it, and without logins in URLs."""
    if not isinstance(error, AsyncCkptError):
        return f"{type(error).__name__}: this is a mistake of asyncckpt; where the page is served it says more"
    return without_logins((error.strerror if isinstance(error, OSError) else None) or str(error))
