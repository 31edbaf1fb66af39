"""Ownership: a run in the hands of this process, from its open record to its closing one.

The run is taken at ``resume`` or at the first save, whichever comes first, and swept once it is. It is lost to
whoever opens it next; a worker that replaces a crashed one inherits what that one knew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from itertools import takewhile

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError, CheckpointDirectoryExistsError, Fenced, OutcomeUnknown, StorageError
from asyncckpt.events import Leftover, Listeners, Swept
from asyncckpt.format.record import Checkpoint, WriterId
from asyncckpt.storage.base import Storage
from asyncckpt.storage.changing import bounded_changing
from asyncckpt.worker.commitlog.home import Home, Seen
from asyncckpt.worker.commitlog.keeping import Keeping
from asyncckpt.worker.commitlog.past import Claim
from asyncckpt.worker.commitlog.prune import Pruner, over
from asyncckpt.worker.commitlog.sweep import carry_out, plan_sweep
from asyncckpt.worker.commitlog.writer import Condition, Writer, new_writer_id, open_run


class Ownership:
    """One process's claim to a run; all calls come from one actor, one after the other.

    The run is taken only as `on` lets it be. `drained` returns once nobody is left whose last commit is worth
    waiting for; what it has `seen` in other tiers by then, this run's numbers go on above. `is_supplied`: what is newer
    than all that is listed may come to be brought here from a tier that has it. With `home` it is taken under that
    one's number, and not above it.
    """

    def __init__(
        self,
        catalog: Catalog,
        listeners: Listeners,
        clock: Clock,
        *,
        overwrite: bool = False,
        on: Condition | None = None,
        drained: Callable[[], Awaitable[None]] | None = None,
        is_supplied: bool = False,
        home: Home | None = None,
    ) -> None:
        self.writer: Writer | None = None
        """The run as it was taken; None before that, and after a commit of unknown outcome."""
        self.resumed = False
        self.on = on
        self.seen = Seen()
        self.told: Callable[[Claim], None] = lambda claim: None
        """Told of what a successor would have to know, before anything rests on it."""
        self.pruner = Pruner(listeners)
        self._catalog = catalog
        self._bounded = catalog.through(bounded_changing(catalog.storage))
        self._listeners = listeners
        self._clock = clock
        self._overwrite = overwrite
        self._drained = drained
        self._is_supplied = is_supplied
        self._me = new_writer_id(clock)
        self._fenced: Fenced | None = None
        self._inc: int | None = None
        self._first_seq = 0
        self._sweeps: list[asyncio.Task[None]] = []
        self._sweep_planned = asyncio.Event()
        self._home = home

    @property
    def claim(self) -> Claim:
        """What a successor has to know."""
        return Claim(self._me, self._inc, self._first_seq, self.resumed, self._fenced)

    def inherit(self, claim: Claim) -> None:
        """Go on where a service that crashed was: its run is taken anew, unless somebody else has it by now."""
        self._me, self.resumed, self._fenced = claim.me, claim.resumed, claim.fenced
        self._inc, self._first_seq = claim.inc, claim.first_seq

    @property
    def storage(self) -> Storage:
        """The run's, which nobody waits for once it hangs."""
        return self._bounded.storage

    def follow(self, home: Home) -> None:
        """The run is that of `home` in another tier: it is taken under the same numbers, and anew where those change.

        Who may have home decides what may be saved there.
        """
        if self._home != home:
            self._home, self._me, self.writer, self.resumed = home, home.writer, None, True

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has taken the run."""
        return self._fenced is not None

    async def take(self) -> Writer:
        """Take the run for writing, once; a writer whose last commit's outcome was unknown opens anew.

        Raises `Fenced` for good once the run is lost, and `CheckpointDirectoryExistsError` where it holds
        checkpoints of an earlier training that nobody resumed: also where a resume had begun, and failed.
        """
        writer = await self._open()
        self.check_resumed(writer.listed)
        return writer

    def check(self) -> None:
        """Raise `Fenced` where somebody else is known to have taken the run."""
        if self._fenced is not None:
            raise self._fenced

    async def _open(self, through: Catalog | None = None) -> Writer:
        self.check()
        if self.writer is None:
            if self._inc is None and self._drained is not None:
                await self._drained()
            try:
                now = int(self._clock.time() * 1e6)
                writer = await open_run(
                    *(through or self._catalog, self._me, now),
                    after=self._inc, on=self.on, home=self._home, seen=self.seen,
                )  # fmt: skip
            except Fenced as error:
                self._fenced = error
                raise
            if self._inc is None:
                self._first_seq = writer.first_seq
            writer.catalog = self._catalog
            self.writer, self._inc = writer, writer.inc
            self.told(self.claim)
            self._sweep_planned.clear()
            self._sweeps.append(asyncio.create_task(self._sweep_up(writer)))
        return self.writer

    async def view(self) -> Listing:
        """Take the run to go on from one of its checkpoints: what the own open record lists.

        It may be written to once that was done: `go_on`. Where there is nothing to go on from, at once. A training
        waits for this, and for no disk that hangs: raises as `BoundedChanging` does.
        """
        marks = await self._bounded.marks()  # first: once the run is taken, what it lists must not grow old
        writer = await self._open(self._bounded)
        return replace(writer.listing, marks=marks)

    async def go_on(self, seq: int, *, named: bool) -> Writer:
        """Training goes on from `seq`. One that the user named becomes the latest, by a record that says so.

        As with `view`, nobody waits for a disk that hangs.
        """
        writer = await self._open(self._bounded)
        self.resumed = True
        self.told(self.claim)
        if named and writer.head.latest != seq:
            writer.catalog = self._bounded
            try:
                with self.recording(writer):
                    await writer.roll_back(seq)
            finally:
                writer.catalog = self._catalog
        writer.parent = seq
        return writer

    @contextlib.contextmanager
    def recording(self, writer: Writer) -> Iterator[None]:
        """Around every commit: what its failure says about the ownership."""
        try:
            yield
        except Fenced as error:
            self._fenced = error
            raise
        except (OutcomeUnknown, asyncio.CancelledError):
            # Whether the slot is taken only a new look can tell, so the next save opens the run anew.
            self.writer = None
            raise

    @contextlib.contextmanager
    def committing(self, writer: Writer) -> Iterator[None]:
        """As `recording`, around a record that stands also where somebody else has taken the run right after it."""
        try:
            with self.recording(writer):
                yield
        except Fenced as error:
            if not error.adopted:
                raise

    def check_resumed(self, listed: Iterable[Checkpoint], url: str | None = None) -> None:
        """Raise `CheckpointDirectoryExistsError` as `take` would, before it disturbs whoever holds the run.

        `url` is where what is `listed` is, where that is another tier.
        """
        if not (self.resumed or self._overwrite) and (others := self._earlier(listed)):
            raise exists(url or self._catalog.storage.url, len(others))

    def overwritten(self, writer: Writer) -> dict[int, str]:
        """With ``overwrite=True``, the sequence numbers of what the first save replaces, and why."""
        if not self._overwrite or self.resumed:
            return {}
        return dict.fromkeys((c.seq for c in self._earlier(writer.listed)), "overwritten by a new training")

    def _earlier(self, listed: Iterable[Checkpoint]) -> list[Checkpoint]:
        """What this process did not save, of `listed` by rising sequence number."""
        # Not what the writer did not: one that took the run anew would drop what this training saved.
        return list(takewhile(lambda c: self._inc is None or c.seq < self._first_seq, listed))

    async def sweep_planned(self) -> None:
        """Wait until the sweep knows what it removes: whatever is begun later cannot look left over to it."""
        await self._sweep_planned.wait()

    async def tell_root(self, keeping: Keeping) -> None:
        """Leave word of the damage that `keeping` was told of, while the run is held."""
        if keeping.found and self.writer is not None and not self.is_lost:
            await self.sweep_planned()  # which would take a note that is being written for one left unfinished
            await keeping.tell_root()

    async def idle(self) -> None:
        """Wait for sweep and deletion under way."""
        for sweep in tuple(self._sweeps):
            await over(sweep)
        await self.pruner.finished()

    def hurry(self) -> None:
        """Leave sweep and deletion under way to the next start: what is about to be saved matters more."""
        for sweep in self._sweeps:
            sweep.cancel()
        self._sweep_planned.set()  # one that had not begun never says so
        self.pruner.hurry()

    async def leave(self, *, tidy: bool = True) -> None:
        """A closing record; then, where `tidy`, what the last commit dropped can be deleted too."""
        if self.writer is not None and self._fenced is None:
            try:
                await (self._close(self.writer) if tidy else self.writer.close(self._whose))
            except (AsyncCkptError, OSError) as error:
                self._listeners.emit(Leftover("the closing record", error))
        await self.idle()

    async def _close(self, writer: Writer) -> None:
        head = writer.head
        stale = [] if head.slot in head.live else [head.slot]
        await writer.close(self._whose)
        await self.pruner.committed(writer, (), stale)
        await self.pruner.committed(writer, (), ())

    @property
    def _whose(self) -> WriterId | None:
        """Under whose number the run was taken: other tiers and copies know it by that one's name."""
        return None if self._home is None else self._home.writer

    async def _sweep_up(self, writer: Writer) -> None:
        try:
            try:
                is_supplied = self._is_supplied or self._home is not None
                found = await plan_sweep(writer, is_supplied=is_supplied)
            finally:
                self._sweep_planned.set()
            removed = await carry_out(found, self._catalog.storage)
        except (AsyncCkptError, OSError) as error:
            self._listeners.emit(Leftover("the start's sweep", error))
            return
        if removed:
            self._listeners.emit(Swept(removed, unfinished=found.unfinished))
        for key in found.unknown:
            self._listeners.emit(Leftover(f"{key} is not ours to place", StorageError(f"unknown name: {key}")))
        if found.hidden is not None:
            self._listeners.emit(Leftover("unfinished puts, which could not be looked for", found.hidden))


def exists(url: str, count: int) -> CheckpointDirectoryExistsError:
    """The error for a first save into a root that holds checkpoints nobody resumed from."""
    held = "a checkpoint" if count == 1 else f"{count} checkpoints"
    return CheckpointDirectoryExistsError(
        f"{url} holds {held} of an earlier training, and this process has not resumed from them. "
        "Either (1) give this training another root, (2) call resume() before the first save to go on from the "
        "latest, or (3) pass overwrite=True to replace them once the first new checkpoint is durable."
    )
