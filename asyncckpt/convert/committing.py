"""Committing: an image into a checkpoint, by the writer that all saves go through: fenced, and listed once it is whole.

All bytes are gathered before the run is taken: a source that cannot be read leaves nothing in the root.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import Future

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.convert.image import About, Image
from asyncckpt.errors import CheckpointDirectoryExistsError
from asyncckpt.events import Listeners
from asyncckpt.format.record import Record
from asyncckpt.storage.base import Storage
from asyncckpt.storage.room import room
from asyncckpt.worker.commitlog.offline import may_be_held
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.job import Committed, Rejected, SaveJob
from asyncckpt.worker.pool import WorkerPool
from asyncckpt.worker.ranks import SingleRank
from asyncckpt.worker.service import SaveService
from asyncckpt.worker.ticket import Reply, Ticket
from asyncckpt.worker.watermark import Watermark


async def check_free(catalog: Catalog) -> None:
    """Raise `CheckpointDirectoryExistsError` for a root that holds checkpoints, or that a training may hold."""
    listing, url = await catalog.listing(), catalog.storage.url
    if held := len(listing.checkpoints) + len(listing.lost):
        what = "a checkpoint" if held == 1 else f"{held} checkpoints"
        raise CheckpointDirectoryExistsError(f"{url} holds {what} already: import into another root")
    if listing.head is not None and may_be_held(listing.head):
        raise CheckpointDirectoryExistsError(
            f"a training may hold {url} ({listing.head.writer.shown}), and would lose it: import into another root"
        )


def gathered(image: Image, progress: Callable[[int, int], None]) -> memoryview:
    """All bytes of `image` in memory, which `progress` is told: how many of how many."""
    memory = memoryview(room(image.layout.size))
    done = 0
    for start, header in image.headers:
        memory[start : start + len(header)] = header
    for fill in image.fills:
        fill.write(memory[fill.offset : fill.offset + fill.nbytes])
        done += fill.nbytes
        progress(done, image.layout.bytes)
    return memory


def commit(open_: Callable[[], Storage], image: Image, memory: memoryview, about: About, message: str) -> Record:
    """Save what is in `memory`, an `image` that was gathered, and return its record.

    Waits for it; not for a thread that runs an event loop. Raises what the save failed of, and `SaveFailed`.
    """
    writer = Writer(open_)
    try:
        return writer.save(image, memory, about, message).result()
    finally:
        writer.close()


class Writer:
    """Saves images into one root; `open_` is called once, on the thread that writes."""

    def __init__(self, open_: Callable[[], Storage]) -> None:
        config = ServiceConfig(incremental=False)
        self._pool = WorkerPool[SaveService](
            lambda former: SaveService(open_(), config, Listeners(()), SYSTEM_CLOCK, SingleRank())
        )
        self._ordinal = 0

    def save(self, image: Image, memory: memoryview, about: About, message: str) -> Future[Record]:
        """Begin to save what is in `memory`, an `image` that was gathered, which has to stay as it is until then."""
        answer: Future[Record] = Future()

        def reply(told: Reply) -> None:
            if isinstance(told, Committed):
                answer.set_result(told.record)
            elif isinstance(told, Rejected):
                answer.set_exception(told.error)

        watermark = Watermark()
        watermark.advance(image.layout.size)
        watermark.seal()
        self._ordinal += 1
        job = SaveJob(
            id=secrets.token_hex(16),
            ordinal=self._ordinal,
            step=about.step or 0,
            epoch=about.epoch,
            metrics=dict(about.metrics),
            created=int(SYSTEM_CLOCK.time() * 1e6),
            arena="import",
            layout=image.layout,
            values=image.values,
            message=message,
        )
        self._pool.submit(Ticket(job, memory, watermark, reply))
        return answer

    def close(self, timeout: float | None = None) -> None:
        """Let it finish; after `timeout` seconds it is left to itself."""
        self._pool.close(timeout)
