"""Following: the race detector learns what one host thread tells another.

Each host thread has a clock of its own: a copy that one thread has waited for is not known to be done by another,
until something orders the two. Python's own primitives do that, and are replaced here by ones that say so.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from asyncckpt.testing.simacc._C import Handover
from asyncckpt.testing.simacc.followed import FollowedLock, FollowedRLock, FollowedSimpleQueue

_real_start = threading.Thread.start
_real_join = threading.Thread.join
_real_call_soon_threadsafe = asyncio.BaseEventLoop.call_soon_threadsafe


@contextmanager
def following_threads() -> Iterator[None]:
    """Follow what is made in this context: locks, simple queues, threads, and calls handed to event loops.

    With locks go `threading.Condition`, `Event`, `Semaphore` and `Barrier`, `queue.Queue`, and futures and executors.
    What a thread did before its start is before all of the started one, and that is before the end of its ``join``.
    Not followed: what was made before; names imported by ``from threading import Lock``; `multiprocessing`; loops that
    are not asyncio's own; and what another library does in C.
    """
    with ExitStack() as patches:
        for owner, name, replacement in (
            (threading, "Lock", FollowedLock),
            (threading, "RLock", FollowedRLock),
            (queue, "SimpleQueue", FollowedSimpleQueue),
            (threading.Thread, "start", _start),
            (threading.Thread, "join", _join),
            (asyncio.BaseEventLoop, "call_soon_threadsafe", _call_soon_threadsafe),
        ):
            patches.enter_context(mock.patch.object(owner, name, replacement))
        yield


def _start(self: threading.Thread) -> None:
    began, ended = Handover(), Handover()
    began.publish()
    run = self.run

    def follow() -> None:
        began.receive()
        try:
            run()
        finally:
            ended.publish()
            del self.__dict__["run"]  # or thread and function would keep each other alive

    self.__dict__["run"] = follow
    self.__dict__["_simacc_ended"] = ended
    _real_start(self)


def _join(self: threading.Thread, timeout: float | None = None) -> None:
    _real_join(self, timeout)
    ended: Handover | None = self.__dict__.get("_simacc_ended")
    if ended is not None and not self.is_alive():
        ended.receive()


def _call_soon_threadsafe(
    self: asyncio.BaseEventLoop, callback: Callable[..., object], *args: Any, context: Any = None
) -> asyncio.Handle:
    seen = Handover()
    seen.publish()
    return _real_call_soon_threadsafe(
        self, functools.partial(_receive_and_call, seen, callback), *args, context=context
    )


def _receive_and_call(seen: Handover, callback: Callable[..., object], *args: Any) -> None:
    seen.receive()
    callback(*args)
