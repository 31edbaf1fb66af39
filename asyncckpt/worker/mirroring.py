"""Mirroring: home's checkpoints in a second store, behind home's back.

After each commit at home its newest checkpoint is copied there, in the background. A mirror that is slower than saves
gets the newest of those that were made meanwhile, and none of the others; one that fails is tried again. Nothing that
happens to it reaches a save: it is told in events, in metrics and in the log.
"""

from __future__ import annotations

import asyncio
import contextlib

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.marking import damage_of
from asyncckpt.clock import Clock
from asyncckpt.errors import CheckpointCorruptError, RunContended, RunError
from asyncckpt.events import Damaged, Fallback, Listeners, TierDurable, TierFailed
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Checkpoint
from asyncckpt.worker.commitlog.home import Seen
from asyncckpt.worker.commitlog.keeping import Keeping
from asyncckpt.worker.commitlog.writer import Writer, home_of
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.tier import Tier

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
"""Seconds before a mirror that failed is tried again, where nothing is committed meanwhile."""


class Mirroring:
    """Keeps `tier` up with the home in `source`, at `pace`; on one event loop.

    `keeping` is home's retention, which leaves alone what is being copied, and is told of damage.
    """

    def __init__(
        self,
        tier: Tier,
        source: Catalog,
        keeping: Keeping,
        pace: Pace,
        listeners: Listeners,
        clock: Clock,
    ) -> None:
        self._tier = tier
        self._source = source
        self._keeping = keeping
        self._pace = pace
        self._listeners = listeners
        self._clock = clock
        self._wanted: tuple[Writer, int] | None = None
        self._amended: dict[int, tuple[Writer, Checkpoint]] = {}
        self._arrived = asyncio.Event()
        self._is_closing = False
        self._is_over = False
        self._seen = Seen()
        self._actor: asyncio.Task[None] | None = None

    @property
    def tier(self) -> Tier:
        """What it is like any other tier."""
        return self._tier

    def failed(self, step: int | None, error: Exception) -> None:
        """See `asyncckpt.worker.bringing.Source.failed`."""
        self._listeners.emit(TierFailed(self._tier.name, step, error, is_final=False))

    async def look(self) -> Seen:
        """Before home is taken: how far the mirror has come, as far as it can be told now.

        Raises `RunRefused` for a mirror of another run; one that does not answer is no reason not to start.
        """
        self._seen = await self._tier.look(self._source)
        return self._seen

    @property
    def is_ahead(self) -> bool:
        """Whether home may lack what is here, see `Seen`."""
        return self._seen.is_ahead

    def passed_over(self) -> None:
        """Nothing of what home lacks was brought there, and training goes on from home."""
        url = self._tier.catalog.storage.url
        reason = f"{url} holds checkpoints of a branch that was abandoned, or damaged ones: training goes on from the"
        self._listeners.emit(Fallback(self._tier.name, f"{reason} root's; give {url} as the root to go on from those"))

    # -- what happens at home ------------------------------------------------------------------------------

    def want(self, writer: Writer, seq: int) -> None:
        """Home's `writer` lists the checkpoint with this number, and has committed or gone on from it."""
        self._wanted = writer, max(seq, self._wanted[1] if self._wanted else 0)
        self._wake()

    def amended(self, writer: Writer, checkpoint: Checkpoint) -> None:
        """Home's `writer` lists `checkpoint` as it is given now."""
        self._amended[checkpoint.seq] = writer, checkpoint
        self._wake()

    def found(self, finding: Finding, damage: Damage) -> None:
        """A copy there was found damaged."""
        self._tier.found(finding, damage)

    def hurry(self) -> None:
        """Leave everything to the next commit, or the next start: what is about to be saved matters more."""
        self._wanted = None
        self._tier.hurry()
        if self._actor is not None:
            self._actor.cancel()

    def _wake(self) -> None:
        self._arrived.set()
        actor = self._actor
        if actor is None or actor.done() or actor.cancelling():  # one that was told to stop takes up nothing more
            self._actor = asyncio.create_task(self._run(actor))

    async def finish(self, *, tidy: bool) -> None:
        """Copy what is newest, unless that has just failed, and leave the mirror in order; where not `tidy`, stop."""
        if not tidy:
            self.hurry()
        self._is_closing = True
        self._arrived.set()
        if self._actor is not None:
            await asyncio.wait([self._actor])
        if tidy and not self._is_over:
            await self._tier.leave()
        await self._tier.catalog.storage.aclose()

    # -- the copies ----------------------------------------------------------------------------------------

    async def _run(self, former: asyncio.Task[None] | None) -> None:
        """Until there is nothing to do, or nothing that can be done; once the `former` one has stopped."""
        if former is not None:
            await asyncio.wait([former])
        pause = _FIRST_PAUSE
        while (self._wanted is not None or self._amended) and not self._is_over:
            self._arrived.clear()
            if await self._catch_up():
                pause = _FIRST_PAUSE
                continue
            failed = self._wanted
            if not self._is_closing:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._arrived.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
            if self._is_closing and self._wanted is failed:
                return

    async def _catch_up(self) -> bool:
        """Whether the mirror has by now what was wanted, or never will; else it is to be tried again."""
        wanted = self._wanted
        try:
            if wanted is not None:
                await self._copy(*wanted)
            for seq, (writer, amended) in list(self._amended.items()):
                await self._tier.amend(home_of(writer), amended)
                if self._amended[seq][1] is amended:
                    del self._amended[seq]
        except CheckpointCorruptError as error:
            self._failed(wanted, error)  # at home: it will be no better the next time
        except Exception as error:
            self._is_over = isinstance(error, RunError) and not isinstance(error, RunContended)
            self._failed(wanted, error)
            return self._is_over
        if self._wanted is wanted:
            self._wanted = None
        return True

    async def _copy(self, writer: Writer, seq: int) -> None:
        if seq not in writer.listed or (checkpoint := writer.listed.record(seq).checkpoint) is None:
            return
        began = self._clock.monotonic()
        with self._keeping.hold(seq):
            try:
                written = await self._tier.take(home_of(writer), checkpoint, self._source, self._pace)
            except CheckpointCorruptError as error:
                if seq not in writer.listed:  # dropped meanwhile, which is not damage
                    return
                self._keeping.found[Finding.of(checkpoint)] = damage_of(error, self._clock)
                self._listeners.emit(Damaged(checkpoint.step, seq, str(error), error.kind))
                raise
        if written is not None:
            now = self._clock.time()
            seconds = now - checkpoint.created / 1e6
            name, step, spent = self._tier.name, checkpoint.step, self._clock.monotonic() - began
            self._listeners.emit(TierDurable(name, step, seq, checkpoint.size, written, seconds, now, spent))

    def _failed(self, wanted: tuple[Writer, int] | None, error: Exception) -> None:
        step = None
        if wanted is not None and (seq := wanted[1]) in (listed := wanted[0].listed):
            checkpoint = listed.record(seq).checkpoint
            step = None if checkpoint is None else checkpoint.step
        self._listeners.emit(TierFailed(self._tier.name, step, error, self._is_over))
