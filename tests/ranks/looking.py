"""How the tests of several ranks look at a root, and at what became of a save."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist

from asyncckpt import AsyncCheckpointer, SaveHandle
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.errors import AsyncCkptError, SaveError
from asyncckpt.fetching.reading import verify
from asyncckpt.storage import from_url
from asyncckpt.worker import listening
from asyncckpt.worker.ranks import pulse_key


def listing_of(root: Path) -> Listing:
    """What the newest record lists."""

    async def read() -> Listing:
        storage = from_url(root)
        try:
            return await Catalog(storage).listing()
        finally:
            await storage.aclose()

    return asyncio.run(read())


def steps_of(root: Path) -> list[int]:
    """The steps of the listed checkpoints, oldest first, each of them verified to the last byte."""

    async def check() -> list[int]:
        storage = from_url(root)
        catalog = Catalog(storage)
        listed = (await catalog.listing()).checkpoints
        for checkpoint in listed:
            await verify(catalog, checkpoint)
        await storage.aclose()
        return [checkpoint.step for checkpoint in listed]

    return asyncio.run(check())


def unlisted(root: Path) -> list[str]:
    """The folders under ``data/`` that no listed checkpoint lies in."""
    listed = {Path(checkpoint.manifest.key).parts[1] for checkpoint in listing_of(root).checkpoints}
    return sorted(folder.name for folder in (root / "data").iterdir() if folder.name not in listed)


def failure_of(handle: SaveHandle | None) -> SaveError:
    """What waiting for a save raises: none of these tests lasts as long as the deadlines it does not shorten."""
    assert handle is not None
    try:
        info = handle.wait(60)
    except SaveError as error:
        return error
    raise AssertionError(f"the save of step {handle.step} became {info}")


def error_of(call: Callable[[], object]) -> str:
    """What a call raises, by kind and in words."""
    try:
        call()
    except AsyncCkptError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def shorten_deadline(checkpointer: AsyncCheckpointer, seconds: float) -> None:
    """From now on this rank waits only so long for the others."""
    checkpointer._returning._ranks.deadline = seconds


class OwnTime:
    """The time by which this process waits for other ranks, from now on: it stands still until the test lets it pass.

    So no rank gives another up because the machine has much else to do.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._pace = 0.0
        mock.patch.object(listening, "time", self).start()

    def monotonic(self) -> float:
        self.now += self._pace
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(0.001)

    def fly(self) -> None:
        """A few looks are a deadline."""
        self._pace = 100.0

    def pass_with_beats(self, ranks: Any) -> None:
        """Five of rank 0's beats are a deadline, however long they take."""
        threading.Thread(target=self._hear_beats, args=[ranks], daemon=True).start()

    def _hear_beats(self, ranks: Any) -> None:
        with suppress(ConnectionError):  # this rank has left
            while True:
                if (said := ranks.peek(pulse_key(0))) is not None:
                    self.now = (said["beat"] + 1) * ranks.deadline / 5
                time.sleep(0.001)


def wait_for_beats(ranks: Any, count: int) -> None:
    """Return once rank 0's heart has beaten so often."""
    seen = -1
    while seen < count - 1:
        said = ranks.peek(pulse_key(0))
        seen = said["beat"] if said else seen
        time.sleep(0.001)


def is_leader() -> bool:
    """Whether this is rank 0."""
    return dist.get_rank() == 0
