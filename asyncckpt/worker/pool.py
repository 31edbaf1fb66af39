"""Pool: the background thread that owns the event loop, and the one crossing point between it and a trainer.

A worker that dies takes nobody with it: its jobs are answered with `WorkerCrashed`, and the next job starts a
new one, which takes the run anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from asyncckpt.errors import CheckpointerClosed, WorkerCrashed
from asyncckpt.storage.stopped import stopped
from asyncckpt.worker.job import Committed, Declined, Landed, Rejected, Started
from asyncckpt.worker.ticket import Reply, Ticket

logger = logging.getLogger("asyncckpt")
_T = TypeVar("_T")


class Service(Protocol):
    """What the pool runs; lives on one event loop."""

    def submit(self, ticket: Ticket) -> None:
        """Queue a job; from any thread. Raises `RuntimeError` once its loop is closed."""
        ...

    def withdraw(self, job: str) -> bool: ...

    def finish(self) -> None: ...

    async def run(self) -> None: ...

    async def settled(self) -> None: ...


_S = TypeVar("_S", bound=Service)


class _Worker(Generic[_S]):
    """One thread, its loop and its service, from start to end; and who waits for it."""

    def __init__(self, make: Callable[[], _S], ended: Callable[[_Worker[_S], BaseException | None], None]) -> None:
        self.service: _S | None = None
        self.jobs: dict[str, Ticket] = {}
        self.calls: set[Future[Any]] = set()
        self.is_over = False
        self._is_leaving = False
        self._let_go = threading.Event()
        self._is_held = False
        """Whether nothing is left to wait for, but what a disk holds that hangs."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._make = make
        self._ended = ended
        self._ready = threading.Event()
        self.thread = threading.Thread(target=self._main, name="asyncckpt", daemon=True)
        self.thread.start()
        self._ready.wait()

    def submit(self, ticket: Ticket) -> None:
        """Hand a job of `jobs` over; where the worker is dead, `ended` answers it."""
        if self.service is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.service.submit(ticket)

    def call(self, call: Callable[[_S], Coroutine[Any, Any, _T]], future: Future[_T]) -> None:
        """Run ``call(service)`` for a future of `calls`; where the worker is dead, `ended` answers it."""
        self._on_loop(lambda: self._call(call, future))

    def finish(self) -> None:
        """Let the service finish what it has."""
        if self.service is not None:
            self._on_loop(self.service.finish)

    def join(self, timeout: float | None) -> bool:
        """Wait until it has ended, or is held by nothing but a disk that hangs; whether it is by then."""
        if not self._let_go.wait(timeout):
            return False
        if not self._is_held:
            self.thread.join()  # it is at its last line
        return True

    def _on_loop(self, task: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(task)

    def _call(self, call: Callable[[_S], Coroutine[Any, Any, _T]], future: Future[_T]) -> None:
        if self.service is not None and not self._is_leaving:
            task = asyncio.ensure_future(call(self.service))
            task.add_done_callback(lambda done: self._answer(done, future))

    def _answer(self, done: asyncio.Task[_T], future: Future[_T]) -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or not isinstance(error, Exception | None):
            return  # the worker is dying, of this or of something else: `ended` will answer
        self.calls.discard(future)
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(error)

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner() as runner:
                try:
                    runner.run(self._serve())
                finally:
                    self._is_leaving = True  # the runner turns the loop a few times more, to cancel what is there
        except BaseException as crash:  # the thread's entry: whatever ends it must reach the handles
            error = crash
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.exception()  # seen: what ended a task below it ended the loop, and asyncio would complain
        self._ready.set()
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if not self._let_go.is_set():
            self._ended(self, error)
            self._let_go.set()

    async def _serve(self) -> None:
        self._task = asyncio.current_task()
        self.service = self._make()
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self.service.run()
        self._is_leaving = True
        if await stopped():
            self._is_held = True
            self._end(None)


class WorkerPool(Generic[_S]):
    """Runs a service in the background; all methods are for other threads.

    `make` builds a service, given the one that crashed before it or None. It is called on the loop.
    """

    def __init__(self, make: Callable[[_S | None], _S]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._worker: _Worker[_S] | None = None
        self._closed = False

    def submit(self, ticket: Ticket) -> None:
        """Queue a job; its replies come on the worker's thread. Raises `CheckpointerClosed` after `close`."""
        with self._lock:
            worker = self._alive()
            known = replace(ticket, reply=self._noting(worker, ticket))
            worker.jobs[ticket.job.id] = known
        worker.submit(known)

    @property
    def is_alive(self) -> bool | None:
        """Whether the thread runs; None before anything was asked of it."""
        worker = self._worker
        return None if worker is None else not worker.is_over

    def withdraw(self, job: str) -> bool:
        """Take a job back that has not been begun; False if it has, or is done."""
        with self._lock:
            worker = self._worker
            if worker is None or worker.service is None or job not in worker.jobs:
                return False
            taken = worker.service.withdraw(job)
            if taken:
                del worker.jobs[job]
            return taken

    def run(self, call: Callable[[_S], Coroutine[Any, Any, _T]]) -> _T:
        """Run ``call(service)`` on the loop and wait; raises what it raises, and `WorkerCrashed` if it never ends."""
        return self.start(call).result()

    def start(self, call: Callable[[_S], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Begin ``call(service)`` on the loop. Raises `CheckpointerClosed` after `close`."""
        future: Future[_T] = Future()
        with self._lock:
            worker = self._alive()
            worker.calls.add(future)
        worker.call(call, future)
        return future

    def ask(self, call: Callable[[_S], Coroutine[Any, Any, _T]]) -> Future[_T] | None:
        """`start` where a worker runs; None where one would have to be started, or after `close`."""
        future: Future[_T] = Future()
        with self._lock:
            worker = self._worker
            if self._closed or worker is None or worker.is_over:
                return None
            worker.calls.add(future)
        worker.call(call, future)
        return future

    def settled(self) -> Future[None] | None:
        """Done once nothing is left to do for what was committed by now.

        None where no worker runs: one that was never started, or has ended, has nothing left to do.
        """
        return self.ask(lambda service: service.settled())

    def close(self, timeout: float | None = None) -> None:
        """Let the service finish; after `timeout` seconds leave it to itself, with a warning."""
        with self._lock:
            self._closed, worker = True, self._worker
        if worker is not None:
            worker.finish()
            if not worker.join(timeout):
                logger.warning("the background worker did not finish in %s s", timeout)

    def _alive(self) -> _Worker[_S]:
        if self._closed:
            raise CheckpointerClosed("this checkpointer is closed")
        if self._worker is None or self._worker.is_over:
            former = self._worker.service if self._worker else None
            self._worker = _Worker(lambda: self._make(former), self._ended)
        return self._worker

    def _noting(self, worker: _Worker[_S], ticket: Ticket) -> Callable[[Reply], None]:
        def reply(answer: Reply) -> None:
            if isinstance(answer, Landed):
                with self._lock:
                    worker.jobs[ticket.job.id] = ticket.without_memory()
            if isinstance(answer, Committed | Rejected | Declined):
                with self._lock:
                    if worker.jobs.pop(ticket.job.id, None) is None:
                        return  # answered already
            ticket.reply(answer)

        return reply

    def _ended(self, worker: _Worker[_S], error: BaseException | None) -> None:
        """Answer everyone who still waits for `worker`; nobody can start to any more."""
        with self._lock:
            worker.is_over = True
            jobs, calls = list(worker.jobs.values()), list(worker.calls)
        if error is not None:
            logger.error("the background worker died", exc_info=error)
        for ticket in jobs:
            crash = WorkerCrashed(f"the background worker ended before step {ticket.job.step} was durable: {error!r}")
            crash.__cause__ = error
            ticket.watermark.leave()
            ticket.reply(Rejected("worker", crash))
        for future in calls:
            future.set_exception(
                CheckpointerClosed("this checkpointer was closed during the call")
                if error is None
                else WorkerCrashed(f"the background worker ended during the call: {error!r}")
            )


__all__ = ["Reply", "Service", "Started", "Ticket", "WorkerPool"]
