"""Untaken: a run that a worker process has not taken yet, and may come to take once its trainer is dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import AsyncCkptError, RunContended
from asyncckpt.events import Listeners
from asyncckpt.format.record import Record
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.writer import Condition, unmoved
from asyncckpt.worker.process.adopting import drained
from asyncckpt.worker.process.wire import Message
from asyncckpt.worker.ranks import Ranks

logger = logging.getLogger("asyncckpt")


class Untaken:
    """The run in `storage`, for `ranks`; `config` is the worker's, `is_alive` says whether the trainer is.

    Made in a running loop.
    """

    def __init__(
        self, storage: Storage, config: Message, listeners: Listeners, ranks: Ranks, is_alive: Callable[[], bool]
    ) -> None:
        self._ranks = ranks
        self._catalog = Catalog(storage)
        self._url = storage.url
        self._config = config
        self._listeners = listeners
        self._is_alive = is_alive
        self._unmoved: Condition | None = None
        self.first_look = asyncio.create_task(self._look())

    async def drained(self) -> None:
        """Wait for workers that others have left: what they commit is there before this one takes the run."""
        await self.first_look
        timeout, log = self._config["adopt_timeout"], Path(self._config["log"])
        await drained(self._url, timeout, self._listeners, but=log, family=self._family)
        await self._look()

    def _family(self) -> list[tuple[int, int | None]]:
        seen = map(self._ranks.presence, range(self._ranks.world))
        return [(presence.trainer, presence.started) for presence in seen if presence is not None]

    async def _look(self) -> None:
        """See what is there, as long as the trainer lives: whoever comes later may have come in its place."""
        try:
            seen = await self._catalog.head()
        except AsyncCkptError as error:
            logger.warning("what is in the run before it is taken could not be seen: %s", error)
            return
        if self._is_alive():
            self._unmoved = unmoved(seen, self._url)

    def check(self, found: Record | None) -> None:
        """Once alone, take a run only as it was before: whoever came since must not be fenced by one who is no more."""
        if self._unmoved is None:
            raise RunContended(f"{self._url}: whether somebody else has taken it is not known")
        self._unmoved(found)
