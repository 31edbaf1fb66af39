"""Line: requests to a key-value store that may fall silent, one after the other, on a thread of their own.

The store's client has limits of its own, but not for every kind of request: to a host that is frozen or cut off, one
waited until it came back. Whoever asks here waits for so long, and no longer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

logger = logging.getLogger("asyncckpt")

ANSWER = 60.0
"""Seconds for the store to answer a request."""

_T = TypeVar("_T")


class Line:
    """Carries requests out in the order of the calls. All methods are for any thread."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._unanswered: Future[Any] | None = None
        self._lock = threading.Lock()
        self._is_started = False
        self._is_closed = False

    def ask(self, request: Callable[[], _T]) -> _T:
        """What `request` returns; raises `ConnectionError` if it does, or if there is no answer in time."""
        if self._unanswered is not None and not self._unanswered.done():
            raise ConnectionError("the process group's key-value store has not answered for a while")
        future = self._post(request)
        try:
            return future.result(ANSWER)
        except TimeoutError:
            self._unanswered = future
            message = f"the process group's key-value store has not answered for {ANSWER:g} s"
            raise ConnectionError(message) from None

    def post(self, request: Callable[[], object], what: str) -> None:
        """Make `request` without waiting for it; `what` names it in the log if it fails."""
        self._post(request).add_done_callback(lambda done: _log(done, what))

    def close(self) -> None:
        """Carry out what was asked for, and end; who asks after that is told at once."""
        with self._lock:
            self._is_closed = True
            self._requests.put(None)

    def _post(self, request: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        with self._lock:
            if self._is_closed:
                future.set_exception(ConnectionError("this rank has left"))
                return future
            if not self._is_started:
                # Not of an executor: the interpreter would wait at exit for a store that never answers.
                threading.Thread(target=self._carry, name="asyncckpt-store", daemon=True).start()
                self._is_started = True
            self._requests.put((request, future))
        return future

    def _carry(self) -> None:
        while (entry := self._requests.get()) is not None:
            request, future = entry
            try:
                future.set_result(request())
            except RuntimeError as error:  # torch's DistError is one, and so is what its sockets raise
                lost = ConnectionError(f"the process group's key-value store does not answer ({error})")
                lost.__cause__ = error
                future.set_exception(lost)
            except BaseException as error:  # whoever asked is told
                future.set_exception(error)


def _log(done: Future[Any], what: str) -> None:
    if (error := done.exception()) is not None:
        logger.error("the other ranks could not be told %s: %s", what, error)
