"""Following: something that is done with the catalog after each change of it, in the background."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakSet

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.events import HOME, Amended, Durable, Event, Pruned, Resumed
from asyncckpt.leading import leads
from asyncckpt.retention import Monitor
from asyncckpt.storage import opened
from asyncckpt.storage.base import Storage

logger = logging.getLogger("asyncckpt")


_all: WeakSet[Following] = WeakSet()
_all_change = threading.Lock()


class Following:
    """A listener that calls `act` with the catalog of `root` once that has changed, and again if it changed meanwhile.

    `act` says whether it has changed the catalog itself: then whatever else follows the same root in this process has
    something to do too. It does so in a thread that ends when there is nothing to do. Changes that come faster than
    that are one. What fails is a warning, once for each reason; the next change, or the next start's ``resume()``,
    makes it good. Of several ranks, rank 0 does it.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | Storage,
        what: str,
        act: Callable[[Catalog], Awaitable[bool]],
        monitor: Monitor | None,
        storage_options: Mapping[str, Any] | None,
    ) -> None:
        self._root = _fixed(root)
        self._what = what
        self._act = act
        self._monitor = monitor
        self._options = storage_options
        self._change = threading.Condition()
        self._is_due = self._is_at_work = False
        self._said: set[str] = set()
        with _all_change:
            _all.add(self)

    def on_event(self, event: Event) -> None:
        """See `asyncckpt.events.Listener`."""
        is_change = isinstance(event, Durable | Amended | Resumed) or (isinstance(event, Pruned) and event.tier == HOME)
        if is_change and leads():
            self._begin()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything that was told so far has been done; False if that takes longer than `timeout` seconds.

        After the checkpointer was closed: a process that ends at once leaves the last of it to the next start.
        """
        with self._change:
            return self._change.wait_for(lambda: not self._is_at_work, timeout)

    def _begin(self) -> None:
        with self._change:
            self._is_due = True
            if self._is_at_work:
                return
            self._is_at_work = True
        try:
            threading.Thread(target=self._work, name="asyncckpt-following", daemon=True).start()
        except RuntimeError as error:  # no thread to be had
            self._complain(error)
            while self._take():
                pass

    def _work(self) -> None:
        while self._take():
            try:
                if asyncio.run(self._once()):
                    self._tell_others()
            except Exception as error:  # nobody else would hear of it, and none of it is worth a training
                self._complain(error)

    def _tell_others(self) -> None:
        with _all_change:
            others = [each for each in _all if each is not self and each._root == self._root]
        for other in others:
            other._begin()

    def _take(self) -> bool:
        """Whether there is something to do; if not, whoever asks is not at work any more."""
        with self._change:
            due, self._is_due = self._is_due, False
            if not due:
                self._is_at_work = False
                self._change.notify_all()
            return due

    async def _once(self) -> bool:
        storage = opened(self._root, self._options)
        try:
            return await self._act(Catalog(storage, self._monitor))
        finally:
            if storage is not self._root:
                await storage.aclose()

    def _complain(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s could not be brought up to date: %s", self._what, text)


def _fixed(root: str | os.PathLike[str] | Storage) -> str | os.PathLike[str] | Storage:
    """The root for later, which a change of the working directory must not lead elsewhere."""
    if not isinstance(root, str | os.PathLike) or "://" in os.fspath(root):
        return root
    return os.path.abspath(os.path.expanduser(os.fspath(root)))
