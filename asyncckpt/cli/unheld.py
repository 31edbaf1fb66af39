"""Unheld: what a command does on an event loop whose end waits for nothing that a disk holds which hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import click

from asyncckpt.worker.stopped import stopped

_T = TypeVar("_T")


def unheld(work: Coroutine[Any, Any, _T]) -> _T:
    """As `asyncio.run`, in a thread of its own, which is left to itself where it cannot come to its end."""
    done: Future[_T] = Future()
    held: set[asyncio.Task[Any]] = set()
    context = click.get_current_context()

    async def act() -> None:
        try:
            result = await work
        except BaseException as error:  # whatever it is, whoever waits for it has it
            done.set_exception(error)
        else:
            held.update(await stopped())
            done.set_result(result)

    def turn() -> None:
        with context.scope(cleanup=False):  # how it is printed, too
            asyncio.run(act())

    thread = threading.Thread(target=turn, name="asyncckpt-command", daemon=True)
    thread.start()
    result = done.result()
    if not held:
        thread.join()
    return result
