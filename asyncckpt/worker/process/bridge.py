"""Bridge: the executor whose service is a process of its own, as the trainer's threads see it.

Nothing here makes the training thread or the copier wait for the worker: to submit, to follow a watermark and to take a
job back is to send what the socket takes at once, and to leave the rest to a thread of the bridge. Whoever waits for an
answer waits for as long as the worker shows that it lives, and no longer than `ProcessConfig.answer_timeout`; for how
long by now is told meanwhile (`asyncckpt.worker.process.succession`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.clock import Clock
from asyncckpt.errors import CheckpointerClosed, SaveFailed, WorkerLate
from asyncckpt.events import HOME, Listeners
from asyncckpt.format import record as records
from asyncckpt.format.contents import Contents
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.marks import Mark
from asyncckpt.format.record import Checkpoint
from asyncckpt.retention import PrunePlan
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import Bounded
from asyncckpt.storage.live import bounded_live
from asyncckpt.storage.recipe import Recipe
from asyncckpt.worker.commitlog.past import Past
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.ignored import IgnoredMessages
from asyncckpt.worker.process.reader import Reader
from asyncckpt.worker.process.relay import Relay
from asyncckpt.worker.process.settings import ProcessConfig
from asyncckpt.worker.ranks import Ranks
from asyncckpt.worker.ticket import Ticket

if sys.platform == "linux":
    from asyncckpt.worker.process.brief import Brief
    from asyncckpt.worker.process.exchange import Exchange
    from asyncckpt.worker.process.replies import Replies
    from asyncckpt.worker.process.succession import Succession

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

_T = TypeVar("_T")


class ProcessExecutor:
    """The service in a process of its own; see `Executor` for the methods.

    Training computes in so many threads (`computing`), on all ranks of this machine together. `fall_back` makes the
    executor that goes on, from what it has to know, where no worker process can be kept alive.
    """

    def __init__(
        self,
        storage: Storage,
        recipe: Recipe,
        config: ServiceConfig,
        process: ProcessConfig,
        listeners: Listeners,
        clock: Clock,
        ranks: Ranks,
        computing: int,
        fall_back: Callable[[Past], Executor],
    ) -> None:
        ignored = IgnoredMessages("the worker process", listeners)
        self._relay = Relay(ranks)
        self._reader = Reader(
            Catalog(bounded_live(storage), config.monitor, only_encrypted=config.only_encrypted),
            config.beside.values(),
        )
        self._exchange = Exchange(Brief(recipe, config, process, ranks, clock, computing), listeners, ignored)
        self._replies = Replies(self._exchange, self._relay, ignored, listeners, clock)
        self._url = storage.url
        self._patience = process.answer_timeout
        self.withdraw = self._exchange.withdraw
        self.abandon = self._exchange.abandon
        self.hurry = self._exchange.hurry
        try:
            self._workers = Succession(
                *(storage.url, self._exchange, self._replies, self._relay, listeners),
                *(process.answer_timeout, fall_back),
            )
        except RuntimeError:
            self._relay.close(0.0)
            raise

    # -- saves ---------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """See `Executor.submit`."""
        if ticket.memory is None:
            raise SaveFailed("this staging memory cannot be shared with another process")
        self._exchange.submit(ticket)

    def staged(self, job: str, tell: Callable[[], None]) -> None:
        """See `Executor.staged`: the worker has everything that it needs to commit it without this process."""
        pending = self._exchange.jobs.find(job)
        if pending is None:
            tell()
        else:
            pending.when_kept(tell)

    def pace(self, share: float, seconds: float | None = None) -> None:
        """See `Executor.pace`."""
        self._exchange.pace(share, seconds)

    @property
    def heard(self) -> float | None:
        """See `Executor.heard`."""
        return self._replies.heard

    @property
    def is_alive(self) -> bool | None:
        """See `Executor.is_alive`."""
        return self._exchange.is_alive

    # -- reading, in this process --------------------------------------------------------------------------

    def read(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> _T:
        """See `Executor.read`."""
        return self._reader.read(call)

    def look(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> Future[_T] | None:
        """See `Executor.look`: nothing that is read here is read by what saves."""
        return self._reader.start(call)

    def listing(self) -> Future[Listing]:
        """See `Executor.listing`."""
        return self._reader.start(lambda catalog: catalog.listing())

    @contextmanager
    def held(self, find: Callable[[Catalog], Coroutine[Any, Any, Checkpoint]]) -> Iterator[Checkpoint]:
        """See `Executor.held`."""
        checkpoint = self.read(find)
        with self._exchange.held(checkpoint.seq):
            yield checkpoint

    # -- questions -----------------------------------------------------------------------------------------

    def resume(self) -> Listing:
        """See `Executor.resume`."""
        # Before the run is taken, as the service does: what it lists then must not grow old.
        marks = self._looked_up(_first_look)
        answer = self._exchange.ask("resume")
        if isinstance(answer, Future):
            head = records.decode(answer.result().encode("ascii"), "the worker's record")
            return replace(self._looked_up(lambda catalog: catalog.listing_of(head)), marks=marks)
        return answer.resume()

    def _looked_up(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> _T:
        """`read` what is little, and for no longer than an answer is waited for."""
        looking = self._reader.start(call)
        if wait([looking], self._patience).not_done:
            raise WorkerLate(f"nothing could be read of {self._url} within {self._patience:g} s: look what holds it")
        return looking.result()

    def go_on(self, seq: int, damaged: Collection[int], *, named: bool, verified: Contents | None) -> None:
        """See `Executor.go_on`."""
        text = None if verified is None else wire.contents_text(verified)
        answer = self._exchange.ask("go_on", seq=seq, damaged=list(damaged), named=named, verified=text)
        if isinstance(answer, Future):
            answer.result()
        else:
            answer.go_on(seq, damaged, named=named, verified=verified)

    def damaged(self, tier: str, finding: Finding, damage: Damage) -> None:
        """See `Executor.damaged`."""
        if tier == HOME:
            self._exchange.found(finding, damage)
        answer = self._exchange.ask("damaged", tier=tier, found=wire.found_json(finding, damage))
        if not isinstance(answer, Future):
            answer.damaged(tier, finding, damage)

    def prune(self, *, dry_run: bool) -> Future[PrunePlan]:
        """See `Executor.prune`."""
        answer = self._exchange.ask("prune", dry_run=dry_run)
        return _then(answer, wire.plan_of) if isinstance(answer, Future) else answer.prune(dry_run=dry_run)

    def record(self, step: int, metrics: Mapping[str, float]) -> Future[None]:
        """See `Executor.record`."""
        answer = self._exchange.ask("record", step=step, metrics=dict(metrics))
        return answer if isinstance(answer, Future) else answer.record(step, metrics)

    def settled(self) -> Future[None] | None:
        """See `Executor.settled`."""
        try:
            answer = self._exchange.ask("settled")
        except CheckpointerClosed:
            return None
        return answer if isinstance(answer, Future) else answer.settled()

    # -- the end -------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """See `Executor.close`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        successor = self._exchange.close()
        self._workers.join(timeout)
        self._relay.close(_left(deadline))
        self._reader.close(_left(deadline))
        if successor is not None:
            successor.close(_left(deadline))


async def _first_look(catalog: Catalog) -> dict[int, tuple[Mark, ...]]:
    if isinstance(catalog.storage, Bounded):
        await catalog.run()  # what takes the run waits for its disk as long as that hangs, and nobody here does
    return await catalog.marks()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _then(answer: Future[Any], read: Callable[[Any], _T]) -> Future[_T]:
    """What `read` makes of the answer, once it is there."""
    found: Future[_T] = Future()

    def hear(answer: Future[Any]) -> None:
        try:
            found.set_result(read(answer.result()))
        except BaseException as error:  # whoever waits for it is told
            found.set_exception(error)

    answer.add_done_callback(hear)
    return found
