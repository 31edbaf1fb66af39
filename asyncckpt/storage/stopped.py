"""Stopped: the end of an event loop on which something may be held that nothing takes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

_T = TypeVar("_T")

HELD = 5.0
"""Seconds after which what was cancelled and has not ended is held by a disk that hangs, and nobody waits for it."""


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

    A thread of its own: whoever calls may be on an event loop, as a notebook is.
    """
    done: Future[_T] = Future()
    held: set[asyncio.Task[Any]] = set()
    thread = threading.Thread(target=_turn, args=(around, work, done, held), name=name, daemon=True)
    thread.start()
    try:
        return done.result()
    finally:
        if done.done() and not held:  # whoever interrupts it waits for nothing
            thread.join()
        del done  # which the error's traceback would keep, and `done` the error


def _turn(
    around: Callable[[], AbstractContextManager[Any]],
    work: Coroutine[Any, Any, _T],
    done: Future[_T],
    held: set[asyncio.Task[Any]],
) -> None:
    with around():
        asyncio.run(_act(work, done, held))


async def _act(work: Coroutine[Any, Any, _T], done: Future[_T], held: set[asyncio.Task[Any]]) -> None:
    try:
        result = await work
    except BaseException as error:  # whatever it is, whoever waits for it has it
        held.update(await stopped())
        done.set_exception(error)
        del work, done
    else:
        held.update(await stopped())
        done.set_result(result)
