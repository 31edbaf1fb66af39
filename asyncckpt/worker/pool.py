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
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, Protocol, TypeVar

from asyncckpt.errors import CheckpointerClosed, WorkerCrashed
from asyncckpt.worker.job import Committed, Declined, Rejected, Started
from asyncckpt.worker.service import Reply, Ticket

logger = logging.getLogger("asyncckpt")
_T = TypeVar("_T")


class Service(Protocol):
    """What the pool runs; lives on one event loop."""

    def submit(self, ticket: Ticket) -> None: ...

    def withdraw(self, job: str) -> bool: ...

    def finish(self) -> None: ...

    async def run(self) -> None: ...


_S = TypeVar("_S", bound=Service)


class _Worker(Generic[_S]):
    """One thread, its loop and its service, from start to end."""

    def __init__(self, make: Callable[[], _S], ended: Callable[[BaseException | None], None]) -> None:
        self.service: _S | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._make = make
        self._ended = ended
        self._ready = threading.Event()
        self.thread = threading.Thread(target=self._main, name="asyncckpt", daemon=True)
        self.thread.start()
        self._ready.wait()

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._serve())
        except BaseException as crash:  # the thread's entry: whatever ends it must reach the handles
            error = crash
        self._ready.set()
        self._ended(error)

    async def _serve(self) -> None:
        self.service = self._make()
        self.loop = asyncio.get_running_loop()
        self._ready.set()
        await self.service.run()


class WorkerPool(Generic[_S]):
    """Runs a service in the background; all methods are for other threads.

    `make` builds a service, given the one that crashed before it or None. It is called on the loop.
    """

    def __init__(self, make: Callable[[_S | None], _S]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._worker: _Worker[_S] | None = None
        self._open: dict[str, Ticket] = {}
        self._closed = False

    def submit(self, ticket: Ticket) -> None:
        """Queue a job; its replies come on the worker's thread. Raises `CheckpointerClosed` after `close`."""
        known = Ticket(ticket.job, ticket.view, ticket.watermark, self._noting(ticket))
        with self._lock:
            self._open[ticket.job.id] = known
            worker = self._alive()
        self._on_loop(worker, lambda service: service.submit(known))

    def withdraw(self, job: str) -> bool:
        """Take a job back that has not been begun; False if it has, or is done."""
        with self._lock:
            worker = self._worker
            taken = worker is not None and worker.service is not None and worker.service.withdraw(job)
            if taken:
                del self._open[job]
        return taken

    def start(self, call: Callable[[_S], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Run ``call(service)`` on the loop; the future is this thread's."""
        with self._lock:
            worker = self._alive()
        service, loop = worker.service, worker.loop
        if service is None or loop is None:
            raise WorkerCrashed("the background worker could not start")
        return asyncio.run_coroutine_threadsafe(call(service), loop)

    def run(self, call: Callable[[_S], Coroutine[Any, Any, _T]], timeout: float | None = None) -> _T:
        """Run ``call(service)`` on the loop and wait; raises what it raises, or `TimeoutError`."""
        future = self.start(call)
        try:
            return future.result(timeout)
        except CancelledError as error:
            raise WorkerCrashed("the background worker ended during the call") from error
        except TimeoutError:
            future.cancel()
            raise

    def close(self, timeout: float | None = None) -> list[int]:
        """Let the service finish; returns the steps of the jobs left after `timeout` seconds."""
        with self._lock:
            self._closed, worker = True, self._worker
        if worker is not None and worker.service is not None and worker.loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended by itself
                worker.loop.call_soon_threadsafe(worker.service.finish)
            worker.thread.join(timeout)
            if worker.thread.is_alive():
                logger.warning("the background worker did not finish in %s s", timeout)
        with self._lock:
            return sorted(ticket.job.step for ticket in self._open.values())

    def _alive(self) -> _Worker[_S]:
        if self._closed:
            raise CheckpointerClosed("this checkpointer is closed")
        if self._worker is None or not self._worker.thread.is_alive():
            former = self._worker.service if self._worker else None
            self._worker = _Worker(lambda: self._make(former), self._ended)
        return self._worker

    def _on_loop(self, worker: _Worker[_S], call: Callable[[_S], None]) -> None:
        service, loop = worker.service, worker.loop
        try:
            if service is None or loop is None:
                raise RuntimeError("it could not start")
            loop.call_soon_threadsafe(call, service)
        except RuntimeError as error:
            self._ended(error)

    def _noting(self, ticket: Ticket) -> Callable[[Reply], None]:
        def reply(answer: Reply) -> None:
            if isinstance(answer, Committed | Rejected | Declined):
                with self._lock:
                    if self._open.pop(ticket.job.id, None) is None:
                        return  # answered already, when the worker that had it died
            ticket.reply(answer)

        return reply

    def _ended(self, error: BaseException | None) -> None:
        with self._lock:
            orphans = list(self._open.values())
        if error is not None:
            logger.error("the background worker died", exc_info=error)
        for ticket in orphans:
            crash = WorkerCrashed(
                f"the background worker ended before step {ticket.job.step} was durable: {error!r}"
            )
            crash.__cause__ = error
            ticket.watermark.leave()
            ticket.reply(Rejected("worker", crash))


__all__ = ["Reply", "Service", "Started", "Ticket", "WorkerPool"]
