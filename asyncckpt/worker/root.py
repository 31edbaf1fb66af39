"""Root: home as the service that saves has it: taken, committed to and kept in order, one thing at a time.

Whatever records something there holds `lock` from the moment it reads what is listed until its record stands: what a
commit may name is what was listed right before it. With a local tier that may take as long as a copy takes, or as the
store does not answer; so who saves there asks `lead` alone, which asks no store once the run was taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container

from asyncckpt.events import Fallback, Listeners, Retried
from asyncckpt.format.record import Checkpoint, Record
from asyncckpt.storage.base import Retrying, Storage
from asyncckpt.worker.commitlog.aftermath import follow_up, tell
from asyncckpt.worker.commitlog.keeping import Keeping, Verdict
from asyncckpt.worker.commitlog.ownership import Ownership
from asyncckpt.worker.commitlog.writer import Writer
from asyncckpt.worker.mirroring import Mirroring


class Root:
    """Home in `storage`; `is_hasty` says whether what can be done later is left to the next start, or the next save."""

    def __init__(
        self,
        storage: Storage,
        ownership: Ownership,
        keeping: Keeping,
        mirroring: Mirroring | None,
        listeners: Listeners,
        is_hasty: Callable[[], bool],
    ) -> None:
        self.storage = storage
        self.ownership = ownership
        self.keeping = keeping
        self.lock = asyncio.Lock()
        self._mirroring = mirroring
        self._listeners = listeners
        self._is_hasty = is_hasty
        self._former: Writer | None = None
        """The run as it was taken last, whatever became of it since."""
        self._told: set[str] = set()
        self._retries: Counter[str] = Counter()

    async def take(self) -> Writer:
        """See `Ownership.take`; whoever asks holds `lock`."""
        writer = await self.ownership.take()
        self._keep(writer)
        return writer

    async def lead(self) -> Writer:
        """Whose numbers a save on the local tier gets: the run as it was taken last, without asking its store again.

        Raises as `take` does, and at once where somebody else is known to have taken the run.
        """
        if self.ownership.writer is not None:
            self._keep(self.ownership.writer)
        if self._former is None:
            async with self.lock:
                return await self.take()
        self.ownership.check()
        self.ownership.check_resumed(self._former.listed)
        return self._former

    def _keep(self, writer: Writer) -> None:
        former, self._former = self._former, writer
        if former is not None and former is not writer:
            # Taken anew, since nobody knows whether its last record stands; what was numbered meanwhile stays below.
            writer.next_seq = max(writer.next_seq, former.next_seq)
            writer.parent = max(filter(None, (writer.parent, former.parent)), default=None)

    async def commit(
        self, writer: Writer, checkpoint: Checkpoint, brought: Container[str] = ()
    ) -> tuple[Verdict, Record]:
        """Commit a checkpoint, everything of which is there; `brought` are packs that were copied for it."""
        verdict = await self._judge(writer, checkpoint)
        with self.ownership.committing(writer):
            await writer.commit(checkpoint, verdict.removed, verdict.acknowledged, brought)
        return verdict, writer.head

    async def _judge(self, writer: Writer, checkpoint: Checkpoint) -> Verdict:
        if self._is_hasty():
            return await self.keeping.judge_in_haste(writer, checkpoint)
        await self.ownership.tell_root(self.keeping)
        return await self.keeping.judge(writer, checkpoint, self.ownership.overwritten(writer))

    async def follow_up(self, writer: Writer, verdict: Verdict) -> None:
        """What can be done later: nothing here can harm the commit."""
        tell(verdict, self._listeners)
        self.tell_of_store()
        if self.ownership.is_lost or self._is_hasty():
            return
        # Not the head's own checkpoint: that may be an older one, whose metrics came late.
        if self._mirroring is not None and (newest := max((c.seq for c in writer.listed), default=None)) is not None:
            self._mirroring.want(writer, newest)
        await follow_up(writer, verdict, self.ownership, self.keeping, self._listeners)

    def tell_of_store(self) -> None:
        """What its store had to do again, or does in a weaker way than it could."""
        if isinstance(self.storage, Retrying):
            for reason, count in self.storage.retries.items():
                if count > self._retries[reason]:
                    self._listeners.emit(Retried(reason, count - self._retries[reason]))
                    self._retries[reason] = count
        for feature, reason in self.storage.fallbacks.items():
            if feature not in self._told:
                self._told.add(feature)
                self._listeners.emit(Fallback(feature, reason))
