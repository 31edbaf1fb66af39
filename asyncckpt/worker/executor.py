"""Executor: where the background service runs, as its trainer sees it: in a thread here, or in a process of its own.

Saving, restoring and the catalog speak to this interface only. What is asked for has a name, since a process can be
sent names and no closures; only reading, which stays in the trainer, is whatever the reader makes of the catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.format.contents import Contents
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Checkpoint
from asyncckpt.retention import PrunePlan
from asyncckpt.storage.bounded import Bounded
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.pool import Service, WorkerPool
from asyncckpt.worker.ticket import Ticket

_T = TypeVar("_T")


class Executor(Protocol):
    """All methods are for the trainer's threads; after `close` they raise `CheckpointerClosed`.

    What waits for the service raises what the service raises, and `WorkerCrashed` where it ends before it answers.
    """

    def submit(self, ticket: Ticket) -> None:
        """Queue a job; its replies come on a background thread. Waits for nothing."""
        ...

    def withdraw(self, job: str) -> bool:
        """Take a job back that has not been begun; False if it has, or is done. Waits for nothing."""
        ...

    def abandon(self, job: str, by_step: int) -> None:
        """Give a job up although it has been begun, see `Abandoning.abandon`. Waits for nothing."""
        ...

    def hurry(self) -> None:
        """What can be left undone is left, and no disk is waited for long: there is an emergency. Waits for nothing."""
        ...

    def staged(self, job: str, tell: Callable[[], None]) -> None:
        """The arena of `job` holds its snapshot: call `tell` once whatever can be lost of it can be lost no more."""
        ...

    @property
    def heard(self) -> float | None:
        """When the worker process gave its last sign of life, Unix time; None without a process, or before that."""
        ...

    def pace(self, share: float, seconds: float | None = None) -> None:
        """Digest and write for this share of the time from now on, see `Pace.set`. Waits for nothing."""
        ...

    def read(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> _T:
        """Read in this process, in the background, and wait for the result."""
        ...

    def look(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> Future[_T] | None:
        """`read` without waiting; None where what saves would have to be started for it."""
        ...

    @property
    def is_alive(self) -> bool | None:
        """Whether what saves is there; None where nothing was asked of it yet. Waits for nothing."""
        ...

    def listing(self) -> Future[Listing]:
        """Begin to look at what the run lists."""
        ...

    def held(self, find: Callable[[Catalog], Coroutine[Any, Any, Checkpoint]]) -> AbstractContextManager[Checkpoint]:
        """The checkpoint that `find` finds now; within the context this training's retention leaves it alone."""
        ...

    def resume(self) -> Listing:
        """Take the run; what its own open record lists."""
        ...

    def go_on(self, seq: int, damaged: Collection[int], *, named: bool, verified: Contents | None) -> None:
        """Training goes on from `seq`, see `SaveService.go_on`."""
        ...

    def damaged(self, tier: str, finding: Finding, damage: Damage) -> None:
        """A checkpoint was found damaged, see `SaveService.damaged`. Waits for nothing."""
        ...

    def prune(self, *, dry_run: bool) -> Future[PrunePlan]:
        """Begin to apply the retention policy now, see `SaveService.prune`."""
        ...

    def record(self, step: int, metrics: Mapping[str, float]) -> Future[None]:
        """Begin to attach late metrics, see `SaveService.record`."""
        ...

    def settled(self) -> Future[None] | None:
        """Done once nothing is left to do for what was committed by now; None where there is nothing, or after `close`.

        It fails where the service ends meanwhile, whose failures are on the handles.
        """
        ...

    def close(self, timeout: float | None = None) -> None:
        """Let the service finish; after `timeout` seconds leave it to itself, with a warning."""
        ...


class Keeper(Service, Protocol):
    """A service that saves, or takes part in it."""

    @property
    def reading(self) -> Catalog: ...

    def hold(self, seq: int) -> AbstractContextManager[None]: ...

    def abandon(self, job: str, by_step: int) -> None: ...

    def hurry(self) -> None: ...

    async def resume(self) -> Listing: ...

    async def go_on(
        self, seq: int, damaged: Collection[int], *, named: bool, verified: Contents | None = None
    ) -> None: ...

    async def damaged(self, tier: str, finding: Finding, damage: Damage) -> None: ...

    async def prune(self, *, dry_run: bool) -> PrunePlan: ...

    async def record(self, step: int, metrics: Mapping[str, float]) -> None: ...


class ThreadExecutor:
    """The service in a background thread of this process, which reading shares with it; it works at `pace`."""

    def __init__(self, make: Callable[[Any], Keeper], pace: Pace) -> None:
        self.pool: WorkerPool[Keeper] = WorkerPool(make)
        self.pace = pace.set
        self.heard: float | None = None
        self.submit = self.pool.submit
        self.withdraw = self.pool.withdraw
        self.settled = self.pool.settled
        self.close = self.pool.close

    def abandon(self, job: str, by_step: int) -> None:
        """See `Executor.abandon`."""

        async def abandon(service: Keeper) -> None:
            service.abandon(job, by_step)

        self.pool.start(abandon)

    def hurry(self) -> None:
        """See `Executor.hurry`."""

        async def hurry(service: Keeper) -> None:
            service.hurry()

        self.pool.start(hurry)

    def staged(self, job: str, tell: Callable[[], None]) -> None:
        """At once: what is lost with this process was never anywhere else."""
        tell()

    def read(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> _T:
        """See `Executor.read`."""
        return self.pool.run(lambda service: call(service.reading))

    def look(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> Future[_T] | None:
        """See `Executor.look`."""
        return self.pool.ask(lambda service: call(service.reading))

    @property
    def is_alive(self) -> bool | None:
        """See `Executor.is_alive`."""
        return self.pool.is_alive

    def listing(self) -> Future[Listing]:
        """See `Executor.listing`."""
        return self.pool.start(lambda service: service.reading.listing())

    @contextmanager
    def held(self, find: Callable[[Catalog], Coroutine[Any, Any, Checkpoint]]) -> Iterator[Checkpoint]:
        """See `Executor.held`."""
        held = ExitStack()

        async def hold(service: Keeper) -> Checkpoint:
            checkpoint = await find(service.reading)
            held.enter_context(service.hold(checkpoint.seq))
            return checkpoint

        async def let_go(service: Keeper) -> None:
            held.close()

        try:
            yield self.pool.run(hold)
        finally:
            self.pool.run(let_go)

    def resume(self) -> Listing:
        """See `Executor.resume`."""
        self.pool.run(_looked)  # a save that is under way holds the run, and waits for its disk as long as that hangs
        return self.pool.run(lambda service: service.resume())

    def go_on(self, seq: int, damaged: Collection[int], *, named: bool, verified: Contents | None) -> None:
        """See `Executor.go_on`."""
        self.pool.run(lambda service: service.go_on(seq, damaged, named=named, verified=verified))

    def damaged(self, tier: str, finding: Finding, damage: Damage) -> None:
        """See `Executor.damaged`."""
        self.pool.start(lambda service: service.damaged(tier, finding, damage))

    def prune(self, *, dry_run: bool) -> Future[PrunePlan]:
        """See `Executor.prune`."""
        return self.pool.start(lambda service: service.prune(dry_run=dry_run))

    def record(self, step: int, metrics: Mapping[str, float]) -> Future[None]:
        """See `Executor.record`."""
        return self.pool.start(lambda service: service.record(step, metrics))


async def _looked(service: Keeper) -> None:
    if isinstance(service.reading.storage, Bounded):
        await service.reading.run()
