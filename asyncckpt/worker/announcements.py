"""Announcements: how every rank but 0 learns where its part of a save goes, and what became of that save.

From what rank 0 says, as long as anything can be heard. Once its trainer or the own one is dead, from the storage: rank
0's worker process goes on, and the report that it writes of its own part announces the attempt. Its folder is known by
its nonce, which is made from the session and the save's number, so that nothing has to be heard for that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeAlias, TypeVar

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import ObjectNotFound, RankMissing, StorageError
from asyncckpt.events import HOME, LOCAL
from asyncckpt.format import report as reports
from asyncckpt.format.names import DATA, DataDirectory, directory_of
from asyncckpt.format.record import Record
from asyncckpt.format.report import Report
from asyncckpt.storage.base import Storage
from asyncckpt.worker.job import SaveJob
from asyncckpt.worker.landed import nonce_of
from asyncckpt.worker.listening import Listening, anything
from asyncckpt.worker.presence import Presence
from asyncckpt.worker.ranks import Ranks, attempt_key, job_id, landed_key, save_task, verdict_key
from asyncckpt.worker.ticket import Ticket

Said: TypeAlias = dict[str, Any]
_T = TypeVar("_T")

AHEAD = 64
"""Later saves by which it is seen that rank 0 has passed one over: more than can be under way at once."""

_SLOWEST_LOOK = 0.25
_FIRST_LOOK = 0.005


class Announcements:
    """Those of rank 0, for `ranks`, heard in `threads` and read in the storage of `catalog` and on the `local` tier."""

    def __init__(self, catalog: Catalog, ranks: Ranks, threads: Executor, local: Storage | None = None) -> None:
        self._tiers = {HOME: catalog.storage} | ({} if local is None else {LOCAL: local})
        self._catalog = catalog
        self._ranks = ranks
        self._threads = threads

    async def attempt(self, ticket: Ticket) -> Said:
        """Where to write, or that it is not to be done: as rank 0 says it.

        Raises `RankMissing` once that can not come any more, and what the snapshot was given up with.
        """
        job = ticket.job
        # Who repeats what a dead worker did may come after the end: what is listed is not to be written again.
        keys = (verdict_key(job.ordinal), attempt_key(job.ordinal)) if ticket.repeated else (attempt_key(job.ordinal),)
        said = await self._hear(keys, job, "attempt")
        return await self._find(ticket) if said is None else said

    async def outcome(self, job: SaveJob, directory: DataDirectory, *, lands: bool = False) -> Said | None:
        """What became of the attempt in `directory`, or a newer one; None where nobody is left to be told.

        One that `lands` may be on the local tier before that, which is told as well. Raises `RankMissing` once nothing
        can come any more.
        """
        # That first: where the verdict is there as well, it came later.
        keys = (*([landed_key(job.ordinal)] if lands else []), verdict_key(job.ordinal), attempt_key(job.ordinal))
        said = await self._hear(keys, job, "verdict", lambda said: not _is_of(said, directory))
        if said is None and not self._ranks.is_alone:
            return {"record": (await self._committed(job, directory)).encode().decode("ascii")}
        return said

    # -- from what rank 0 says -----------------------------------------------------------------------------

    async def _hear(
        self, keys: tuple[str, ...], job: SaveJob, word: str, concerns: Callable[[Said], bool] = anything
    ) -> Said | None:
        """Its word; None once the storage alone can tell."""
        hint = ": either it is gone, or it does not call step() and save() as this rank does"
        word, task = f"{word} at step {job.step}", save_task(job.ordinal)
        listening = Listening(self._ranks, 0, keys, word, task=task, hint=hint, concerns=concerns)
        while True:
            # Before the look: it may have been its last word.
            is_orphaned = await self._in_thread(self._is_orphaned)
            try:
                said: Said | None = await self._in_thread(listening.look)
            except ConnectionError:
                if await self._presence() is None:
                    with listening.losable():
                        raise
                return None
            if said is not None or is_orphaned:
                return said
            await asyncio.sleep(listening.pause)

    def _is_orphaned(self) -> bool:
        presence = self._ranks.presence(0)
        return presence is not None and presence.is_orphaned

    async def _presence(self) -> Presence | None:
        return await self._in_thread(lambda: self._ranks.presence(0))

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    # -- from what it writes -------------------------------------------------------------------------------

    async def _find(self, ticket: Ticket) -> Said:
        """The newest attempt at the job of `ticket` that rank 0 has done its part of."""
        job = ticket.job
        session = await self._in_thread(lambda: self._ranks.session) or ""
        own, *later = [nonce_of(job_id(session, job.ordinal + more)) for more in range(AHEAD)]

        async def look() -> Said | None:
            if ticket.watermark.error is not None:
                raise ticket.watermark.error
            folders = [(found, tier) for tier in self._tiers for found in await self._folders(tier)]
            attempts = [it for it in folders if (it[0].nonce, it[0].step) == (own, job.step)]
            if attempts:
                newest, tier = max(attempts, key=lambda it: (it[0].inc, it[0].seq))
                if (report := await self._report(tier, newest.report(0, job.world))) is not None:
                    return attempt_json(report.writer, newest, tier)
            is_passed_over = any(found.nonce in later for found, _ in folders)
            return {"declined": {"by_step": None}} if is_passed_over else None

        return await self._until(look, f"attempt at step {job.step}")

    async def _folders(self, tier: str) -> set[DataDirectory]:
        try:
            found = {directory_of(found.key) async for found in self._tiers[tier].list(DATA)}
        except StorageError:
            if tier == HOME:
                raise
            return set()  # then rank 0 does not have it either, and writes to the root
        return {folder for folder in found if folder is not None}

    async def _report(self, tier: str, key: str) -> Report | None:
        storage = self._tiers[tier]
        try:
            return reports.decode(await storage.get(key), f"{storage.url}/{key}")
        except ObjectNotFound:
            return None

    async def _committed(self, job: SaveJob, directory: DataDirectory) -> Record:
        """The record of the attempt in `directory`."""

        async def look() -> Record | None:
            for record in (await self._catalog.listing()).records:
                if record.checkpoint is not None and record.checkpoint.manifest.key == directory.manifest:
                    return record
            return None

        return await self._until(look, f"verdict at step {job.step}")

    async def _until(self, look: Callable[[], Awaitable[_T | None]], word: str) -> _T:
        """What `look` finds; raises `RankMissing` where rank 0's processes are dead, or after the deadline."""
        began, pause, presence = time.monotonic(), _FIRST_LOOK, await self._presence()
        while True:
            # Before the look: it may have been the last that they wrote.
            is_gone = presence is None or await self._in_thread(lambda: presence.is_gone)
            if (found := await look()) is not None:
                return found
            if is_gone:
                raise RankMissing(f"no {word} from rank 0: its process is dead", [0])
            if time.monotonic() > began + self._ranks.deadline:
                raise RankMissing(f"no {word} from rank 0 within {self._ranks.deadline:g} s", [0])
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _SLOWEST_LOOK)


def attempt_json(writer: str, directory: DataDirectory, tier: str = HOME) -> Said:
    """What rank 0 says of an attempt in `directory` of `tier`, as the writer with that nonce."""
    return {
        "writer": writer,
        "seq": directory.seq,
        "inc": directory.inc,
        "nonce": directory.nonce,
        "step": directory.step,
        "tier": tier,
    }


def directory_in(said: Said) -> DataDirectory:
    """The folder of the attempt that was said."""
    return DataDirectory(said["seq"], said["step"], said["inc"], said["nonce"])


def _is_of(said: Said, directory: DataDirectory) -> bool:
    """Whether it is the announcement of this very attempt."""
    return "seq" in said and directory_in(said) == directory
