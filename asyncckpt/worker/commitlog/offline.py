"""Offline: removal of checkpoints by somebody who is not the training: by request, or by taking the run."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.clock import Clock
from asyncckpt.errors import StorageError
from asyncckpt.events import Leftover, Listeners
from asyncckpt.format.marks import drop_key, encode
from asyncckpt.format.record import Record
from asyncckpt.retention import Monitor, PrunePlan
from asyncckpt.storage.base import Storage
from asyncckpt.worker.commitlog.hints import show
from asyncckpt.worker.commitlog.home import Home
from asyncckpt.worker.commitlog.keeping import Keeping
from asyncckpt.worker.commitlog.ownership import Ownership
from asyncckpt.worker.commitlog.writer import unmoved


def may_be_held(head: Record) -> bool:
    """Whether a training may be saving into the run: its last writer has not closed it.

    Nobody can tell more: there is no lease, and a process that is not seen from here may live in another container.
    """
    return head.kind != "close"


async def ask(storage: Storage, seqs: Collection[int], who: str, clock: Clock, given_up: Collection[int] = ()) -> None:
    """Leave word for the training that holds the run: it drops `seqs` in its next record, but for what is marked.

    It also leaves alone what is damaged, unless that was known and is `given_up`.
    """
    await storage.put(drop_key(), [encode(who, int(clock.time() * 1e6), seqs, given_up)])


async def drop(
    storage: Storage,
    unwanted: Mapping[int, str],
    listeners: Listeners,
    clock: Clock,
    *,
    monitor: Monitor | None = None,
    on: Record | None = None,
    given_up: Collection[int] = (),
) -> PrunePlan:
    """Take the run, drop the checkpoints with these numbers (for these reasons), delete their data, and close it.

    What was marked meanwhile stays, and the latest and the best (by `monitor`, or by what the run says) in any case; so
    does what is damaged, unless that was known and is `given_up`.
    Whoever held the run is fenced by this; with `on` nobody is, as the run is only taken while that is its head. Raises
    as `asyncckpt.worker.commitlog.writer.open_run` does, and `StorageError` where pins and tags cannot be read.
    """
    catalog = Catalog(storage, monitor)
    condition = None if on is None else unmoved(on, storage.url)
    ownership = Ownership(catalog, listeners, clock, on=condition, home=await _left(catalog, on))
    ownership.resumed = True
    keeping = Keeping(storage, None, monitor, listeners)
    writer = await ownership.take()
    try:
        planned, verdict = await keeping.judge_alone(writer, unwanted, given_up)
        for part in verdict.parts():
            with ownership.recording(writer):
                await writer.drop(part.removed, part.acknowledged)
            await ownership.pruner.committed(writer, writer.dropped, writer.stale)
        if verdict.removed:
            await keeping.answer(verdict)
            await ownership.sweep_planned()
            try:
                await show(storage, writer)
            except StorageError as error:  # no reason to call a removal failed that is done
                listeners.emit(Leftover("the hints latest and best", error))
    finally:
        await ownership.leave()
    return planned


async def _left(catalog: Catalog, head: Record | None) -> Home | None:
    """Whose number a removal goes under, where `head` says that nobody holds the run; None for one of its own.

    What is pruned may be a tier, whose training has begun and not saved there yet. That takes it under the number of
    its home, and would be told that it has lost it to whoever has the same or a higher one. Where slots are created
    exclusively it is these that keep two writers apart, and the number of who has left will do; it is closed in that
    one's name too, since a copy of the run, under the same number, is in those hands and in no others.
    """
    run = None if head is None or may_be_held(head) else await catalog.run()
    return None if head is None or run is None or run.mode != "exclusive" else Home(run.id, head.inc, head.writer)


async def tidy(storage: Storage, listeners: Listeners, clock: Clock) -> None:
    """Take the run, sweep it as a start does, and close it. Whoever held it is fenced by this.

    `listeners` are told what was `Swept`, and what is a `Leftover`. Raises as `writer.open_run` does.
    """
    ownership = Ownership(Catalog(storage), listeners, clock)
    ownership.resumed = True
    await ownership.take()
    await ownership.leave()
