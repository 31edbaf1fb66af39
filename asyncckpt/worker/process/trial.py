"""Trial: a worker process that is started as a training would start it, and ended, to see whether it can be had."""

from __future__ import annotations

import sys

from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.storage.base import Storage
from asyncckpt.storage.recipe import recipe_of
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.process.settings import ProcessConfig
from asyncckpt.worker.ranks import SingleRank

if sys.platform == "linux":
    from asyncckpt.worker.process.brief import Brief
    from asyncckpt.worker.process.link import Link, Waker

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

_PATIENCE = 60.0
"""Seconds within which one is ready, or something is wrong."""

_BEAT = 0.5


def start_up(storage: Storage) -> float:
    """Seconds until a worker process for `storage` is ready to commit by itself; it has ended when this returns.

    It looks at what is in `storage`, and changes nothing there. Raises `OSError` where none can be started, and
    `RuntimeError` where it did not come to be ready.
    """
    recipe = recipe_of(storage)
    if recipe is None:
        raise RuntimeError(f"no other process can have the storage at {storage.url}")
    brief = Brief(recipe, ServiceConfig(), ProcessConfig(), SingleRank(), SYSTEM_CLOCK, computing=1)
    link = Link(storage.url, {**brief.message(), "code_version": None}, _BEAT)
    waker, ready = Waker(), None
    try:
        ready = _ready(link, waker)
        if ready is None:
            link.kill()
        else:
            _close(link, waker)
    finally:
        how = link.end()
    if ready is None:
        raise RuntimeError(f"{how}; it was not ready within {_PATIENCE:g} s")
    return ready


def _ready(link: Link, waker: Waker) -> float | None:
    """Seconds after which it has said so; None where it has ended, or has not for too long."""
    while link.age < _PATIENCE:
        is_there = link.wait(waker.descriptor)
        if any(message.get("kind") == "hello" for message, _ in link.receive()):
            return link.age
        if not is_there:
            break
    return None


def _close(link: Link, waker: Waker) -> None:
    """Have it end in order; what it says until then is of no interest."""
    link.channel.post({"kind": "close"})
    until = link.age + _PATIENCE
    while link.wait(waker.descriptor) and link.age < until and not link.channel.is_ended:
        for _ in link.receive():
            pass
