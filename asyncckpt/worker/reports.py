"""Reports, gathered: rank 0 waits until every rank's report of this very attempt is in the store."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from asyncckpt.errors import ObjectNotFound, RankMissing, SaveFailed
from asyncckpt.format import report as reports
from asyncckpt.format.manifest import Contents, merge
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.report import Report
from asyncckpt.storage.base import Storage
from asyncckpt.worker.job import SaveJob
from asyncckpt.worker.ranks import Ranks, left_key, trouble_key

_FIRST_LOOK = 0.01
_SLOWEST_LOOK = 0.5


async def write_report(
    job: SaveJob, contents: Contents, directory: DataDirectory, writer: str, storage: Storage
) -> Report:
    """Put this rank's report beside its packs, which must be durable by now."""
    report = Report(writer, directory.seq, directory.nonce, job.step, job.rank, job.world, job.plan, contents)
    await storage.put(directory.report(job.rank, job.world), [await asyncio.to_thread(report.encode)])
    return report


async def gather(
    job: SaveJob, contents: Contents, directory: DataDirectory, writer: str, storage: Storage, ranks: Ranks
) -> Contents:
    """The whole checkpoint's contents, once exactly `world` ranks have reported on this attempt.

    Raises `RankMissing` naming those that did not before the deadline, or that have left, and `SaveFailed` as soon as
    one says that it failed, or was given other objects to save than this one.
    """
    if job.world == 1:
        return contents
    own = await write_report(job, contents, directory, writer, storage)
    found = {job.rank: own}
    gone: set[int] = set()
    deadline = asyncio.get_running_loop().time() + ranks.deadline
    pause = _FIRST_LOOK
    while missing := [rank for rank in range(job.world) if rank not in found]:
        for rank in missing:
            report = await _look(rank, own, directory, storage)
            if report is not None:
                _check_plan(report, own)
                found[rank] = report
            elif trouble := _trouble(ranks, job.ordinal, rank):
                raise SaveFailed(f"rank {rank} could not write its shard: {trouble['error']}")
            elif rank in gone:
                raise RankMissing(
                    f"rank {rank} has closed its checkpointer without its part of step {job.step}", [rank]
                )
            elif _has_left(ranks, rank):
                gone.add(rank)  # its report may have come since it was looked for
        if len(found) < job.world:
            if asyncio.get_running_loop().time() > deadline:
                names = ", ".join(map(str, missing))
                raise RankMissing(
                    f"no report from rank {names} within {ranks.deadline:g} s: either it is gone, or it does not "
                    "call step() and save() as rank 0 does",
                    missing,
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _SLOWEST_LOOK)
    return merge(found[rank].contents for rank in range(job.world))


def _check_plan(report: Report, own: Report) -> None:
    if report.plan != own.plan:
        raise SaveFailed(
            f"rank {report.rank} shares other objects than rank {own.rank}: give AsyncCheckpointer the same model, "
            "optimizer, scheduler and scaler on every rank, under the same names"
        )


def _trouble(ranks: Ranks, ordinal: int, rank: int) -> dict[str, Any] | None:
    # Reports travel through the storage, so that a commit needs nothing but it.
    with contextlib.suppress(ConnectionError):
        return ranks.peek(trouble_key(ordinal, rank))
    return None


def _has_left(ranks: Ranks, rank: int) -> bool:
    with contextlib.suppress(ConnectionError):
        return ranks.peek(left_key(rank)) is not None
    return False


async def _look(rank: int, own: Report, directory: DataDirectory, storage: Storage) -> Report | None:
    key = directory.report(rank, own.world)
    try:
        report = reports.decode(await storage.get(key), f"{storage.url}/{key}")
    except ObjectNotFound:
        return None
    return report if report.rank == rank and report.attempt == own.attempt else None
