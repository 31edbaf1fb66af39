"""Shown: the arenas and layouts that a worker process has to know, told once and forgotten when they are gone."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable

from asyncckpt.worker.job import Layout
from asyncckpt.worker.ticket import Ticket

if sys.platform == "linux":
    from asyncckpt.worker.process.link import Link

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out


class Shown:
    """Of one trainer; `wake` has `forget` called soon, and is called in any thread. For the rest, not for several."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._numbers = itertools.count(1)
        self._layout: tuple[Layout, int] | None = None
        self._watched: set[str] = set()
        self._gone: deque[str] = deque()

    def layout(self, layout: Layout) -> int:
        """The number of a layout: the same for as long as saves have the same one."""
        if self._layout is None or self._layout[0] is not layout:
            self._layout = layout, next(self._numbers)
        return self._layout[1]

    def watch(self, ticket: Ticket) -> None:
        """Notice when the arena of `ticket` is there no more."""
        if ticket.job.arena not in self._watched:
            self._watched.add(ticket.job.arena)
            weakref.finalize(ticket.view, self._went, ticket.job.arena).atexit = False

    def _went(self, arena: str) -> None:
        # A finalizer: in any thread, and whatever that thread holds.
        self._gone.append(arena)
        self._wake()

    def forget(self, link: Link, used: Iterable[int]) -> None:
        """Tell the worker of what is gone; `used` are the layouts of jobs under way."""
        while self._gone:
            arena = self._gone.popleft()
            self._watched.discard(arena)
            link.forget_arena(arena)
        current = set() if self._layout is None else {self._layout[1]}
        link.forget_layouts(current.union(used))
