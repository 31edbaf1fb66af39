"""Stopped: the end of an event loop on which something may be held that nothing takes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

HELD = 5.0
"""Seconds after which what was cancelled and has not ended is held by a disk that hangs, and nobody waits for it."""

LOOK = 1.0


async def stopped() -> set[asyncio.Task[Any]]:
    """Cancel whatever else is under way on this loop, and wait for its end; what is held, and may never end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if not others:
        return set()
    ended, held = await asyncio.wait(others, timeout=HELD)
    for task in ended:
        if not task.cancelled():
            task.exception()  # seen: whoever had asked for it waits no more
    return held


def unheld(
    work: Coroutine[Any, Any, _T], name: str, around: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> _T:
    """As `asyncio.run`, `around` it, in a thread of that name, which is left to itself where it cannot come to its end.

    A thread of its own: whoever calls may be on an event loop, as a notebook is. Whoever interrupts it waits for
    nothing.
    """
    turn = _Turn(work, name, around)
    turn.wait()
    return turn.result()


def put_in_order(
    work: Coroutine[Any, Any, _T], name: str, around: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> _T:
    """As `unheld`, of what has something to put in order at its end: whoever interrupts it waits for that.

    Whoever interrupts it twice waits for nothing.
    """
    turn = _Turn(work, name, around)
    try:
        turn.wait()
    except KeyboardInterrupt:
        turn.cancel()
        turn.wait()
        if turn.was_cancelled:
            raise
    return turn.result()


class _Turn(Generic[_T]):
    """`work` on an event loop in a thread of its own, which begins at once."""

    def __init__(
        self, work: Coroutine[Any, Any, _T], name: str, around: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._done: Future[_T] = Future()
        self._held: set[asyncio.Task[Any]] = set()
        self._begun: Future[Callable[[], object]] = Future()
        self._is_over = False
        self._thread = threading.Thread(target=self._main, args=(work, around), name=name, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once it has ended."""
        while not self._done.done():
            wait([self._done], LOOK)  # not for long at once: on Windows nothing interrupts that
        if not self._held:
            self._thread.join()

    def result(self) -> _T:
        """What it has returned or raised."""
        done, self._done = self._done, Future()  # which the error's traceback would keep, and `done` the error
        try:
            return done.result()
        finally:
            del done

    @property
    def was_cancelled(self) -> bool:
        """Whether it has ended because of `cancel`."""
        return isinstance(self._done.exception(), asyncio.CancelledError)

    def cancel(self) -> None:
        """Have it put in order what it has begun, and end."""
        with suppress(RuntimeError):  # its loop is closed
            self._begun.result()()

    def _main(self, work: Coroutine[Any, Any, _T], around: Callable[[], AbstractContextManager[Any]]) -> None:
        try:
            with around():
                asyncio.run(self._act(work))
        except BaseException as error:
            if self._done.done():
                raise
            self._done.set_exception(error)  # there is no loop to be had: whoever waits would wait for ever

    async def _act(self, work: Coroutine[Any, Any, _T]) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 -- so `asyncio.run` runs it
        self._begun.set_result(lambda: loop.call_soon_threadsafe(self._interrupt, task))
        try:
            result = await work
        except BaseException as error:  # whatever it is, whoever waits for it has it
            await self._stop()
            self._done.set_exception(error)
            del work
        else:
            await self._stop()
            self._done.set_result(result)

    async def _stop(self) -> None:
        self._is_over = True
        self._held.update(await stopped())

    def _interrupt(self, task: asyncio.Task[Any]) -> None:
        if not self._is_over:  # else it would break off `_stop`, and whoever waits would never be told of the end
            task.cancel()
