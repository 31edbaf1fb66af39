"""Daemons: threads that nobody waits for, not even the end of the interpreter.

Those of `ThreadPoolExecutor` are joined at its end, whatever holds them: a program that has left a disk behind that
hangs would never end.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeAlias, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Item: TypeAlias = "tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]"


class Daemons(Executor):
    """Up to `count` threads, begun when there is work for them; they end with `shutdown`, or once nobody has this."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._is_over = False
        # The threads have these alone, and not what they belong to.
        self._work: SimpleQueue[_Item | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        weakref.finalize(self, self._work.put, None).atexit = False

    def submit(self, function: Callable[_P, _T], /, *arguments: _P.args, **named: _P.kwargs) -> Future[_T]:
        """See `Executor.submit`; raises `RuntimeError` after `shutdown`, and `OSError` where no thread is to be had."""
        done: Future[_T] = Future()
        with self._lock:
            if self._is_over:
                raise RuntimeError("these threads were ended")
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._count:
                self._start()
            self._work.put((done, function, arguments, named))
        return done

    def _start(self) -> None:
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=_serve, args=(self._work, self._idle), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:  # or one of those will come to it
                raise OSError(errno.EAGAIN, f"{name}: {error}") from error
        else:
            self._threads.append(thread)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; what there is, is done, and waited for unless not to `wait`. Nothing is cancelled."""
        with self._lock:
            self._is_over = True
            self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()


def _serve(work: SimpleQueue[_Item | None], idle: threading.Semaphore) -> None:
    while (item := work.get()) is not None:
        _carry_out(idle, *item)
        del item  # while it waits it keeps nothing alive
    work.put(None)  # for the others


def _carry_out(
    idle: threading.Semaphore,
    done: Future[Any],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> None:
    """Idle comes before done: whoever is told would else begin one more thread for what comes next, now and then."""
    if not done.set_running_or_notify_cancel():
        idle.release()
        return
    try:
        result = function(*arguments, **named)
    except BaseException as error:  # whoever has asked for it is told
        idle.release()
        done.set_exception(error)
        del done, function, arguments, named  # which the error's traceback would keep, and `done` the error
    else:
        idle.release()
        done.set_result(result)


def _begun(act: Callable[[], _T]) -> tuple[Daemons, Future[_T]]:
    threads = Daemons(1, "asyncckpt-look")
    try:
        return threads, threads.submit(act)
    finally:
        threads.shutdown(wait=False)


async def beside(act: Callable[[], _T]) -> _T:
    """What `act` returns or raises, in a thread of its own: the loop does not wait for that at its end."""
    threads, asked = _begun(act)
    try:
        return await asyncio.wrap_future(asked)
    finally:
        _leave(threads, asked)


def within(seconds: float, act: Callable[[], _T]) -> _T:
    """What `act` returns or raises, in a thread of its own; raises `TimeoutError` where that takes too long."""
    threads, asked = _begun(act)
    wait([asked], seconds)
    _leave(threads, asked)
    if not asked.done():
        raise TimeoutError(f"no answer within {seconds:g} s")
    return asked.result()


def _leave(threads: Daemons, asked: Future[Any]) -> None:
    """Whoever has an answer finds no thread left behind: it is told a moment before the thread ends, and no sooner."""
    if asked.done():
        threads.shutdown()
