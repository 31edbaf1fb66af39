"""Reports, gathered: rank 0 waits until every rank's report of this very attempt is in the store."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncckpt.errors import ObjectNotFound, RankMissing, SaveFailed
from asyncckpt.format import report as reports
from asyncckpt.format.contents import Contents, merge
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.report import Report
from asyncckpt.storage.base import Storage
from asyncckpt.worker.job import SaveJob
from asyncckpt.worker.listening import Listening
from asyncckpt.worker.ranks import Ranks, save_task, trouble_key

_FIRST_LOOK = 0.01


class ShardFailed(SaveFailed):
    """A `rank` could not write its part; where else that may go, it can be asked for it again."""

    def __init__(self, message: str, rank: int = 0) -> None:
        super().__init__(message)
        self.rank = rank


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

    Raises `RankMissing` naming the first that did not before the deadline, or that has left, `ShardFailed` as soon as
    one says that it failed, and `SaveFailed` where one was given other objects to save than this one, or another key.
    """
    if job.world == 1:
        return contents
    own = await write_report(job, contents, directory, writer, storage)
    found = {job.rank: own}
    others = (rank for rank in range(job.world) if rank != job.rank)
    listening = {rank: _listening(ranks, rank, job, directory) for rank in others}
    while missing := [rank for rank in listening if rank not in found]:
        # Side by side: where a store takes long to answer, there may be hundreds to ask for.
        looks = [_report_of(rank, own, directory, storage, listening[rank]) for rank in missing]
        for rank, report in zip(missing, await asyncio.gather(*looks), strict=True):
            if report is not None:
                _check_alike(report, own)
                found[rank] = report
        if len(found) < job.world:
            await asyncio.sleep(max(_FIRST_LOOK, *(listening[rank].pause for rank in missing)))
    return merge(found[rank].contents for rank in range(job.world))


def _listening(ranks: Ranks, rank: int, job: SaveJob, directory: DataDirectory) -> Listening:
    hint = ": either it is gone, or it does not call step() and save() as rank 0 does"
    trouble = (trouble_key(job.ordinal, rank),)
    return Listening(
        *(ranks, rank, trouble, f"part of step {job.step}"),
        task=save_task(job.ordinal),
        hint=hint,
        concerns=lambda said: said.get("seq", directory.seq) == directory.seq,
    )


async def _report_of(
    rank: int, own: Report, directory: DataDirectory, storage: Storage, listening: Listening
) -> Report | None:
    """Its report, or None if it may still come: looked for after the signs, since it may have been its last."""
    outcome = await asyncio.to_thread(_signs, listening)
    if (report := await _look(rank, own, directory, storage)) is not None:
        return report
    if isinstance(outcome, RankMissing):
        raise outcome
    if isinstance(outcome, dict):
        raise ShardFailed(f"rank {rank} could not write its shard: {outcome['error']}", rank)
    return None


def _signs(listening: Listening) -> dict[str, Any] | RankMissing | None:
    """What that rank says of its part; or why, if it is not there by now, it never will be."""
    try:
        return listening.look()
    except RankMissing as error:
        return error
    except ConnectionError:
        # Reports travel through the storage, so that a commit needs nothing but it.
        return listening.missing() if listening.is_gone or listening.is_overdue else None


def _check_alike(report: Report, own: Report) -> None:
    if report.contents.hidden != own.contents.hidden:
        # What the manifest takes in, its key vouches for: anybody may have put a report there that takes none.
        raise SaveFailed(
            f"the part of rank {report.rank} is stored with {report.contents.hidden!r}, that of rank {own.rank} with "
            f"{own.contents.hidden!r}: somebody else has written it, or that rank was given another codec"
        )
    if report.plan != own.plan:
        raise SaveFailed(
            f"rank {report.rank} shares other objects than rank {own.rank}: give AsyncCheckpointer the same model, "
            "optimizer, scheduler and scaler on every rank, under the same names"
        )


async def _look(rank: int, own: Report, directory: DataDirectory, storage: Storage) -> Report | None:
    key = directory.report(rank, own.world)
    try:
        report = reports.decode(await storage.get(key), f"{storage.url}/{key}")
    except ObjectNotFound:
        return None
    return report if report.rank == rank and report.attempt == own.attempt else None
