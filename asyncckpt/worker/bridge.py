"""Bridge: the trainer's side of the worker process. One thread starts it, hears it, and replaces it when it dies.

A worker's death costs no save: the next one gets what was not answered, in the same order, and finds out what the dead
one has committed without having said so. Only the third death within a minute ends that: the jobs fail, and the service
goes on in a thread of this process, visibly.

Nothing here makes the training thread or the copier wait for the worker: to submit, to follow a watermark and to take a
job back is to send what the socket takes at once, and to leave the rest to the bridge's own thread.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from asyncckpt.catalog import Catalog
from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError, CheckpointerClosed, SaveFailed, WorkerCrashed
from asyncckpt.events import Fallback, Listeners
from asyncckpt.format import record as records
from asyncckpt.format.manifest import Contents
from asyncckpt.format.record import Checkpoint
from asyncckpt.listing import Listing
from asyncckpt.retention import PrunePlan
from asyncckpt.storage.base import Storage
from asyncckpt.storage.recipe import Recipe
from asyncckpt.worker import wire
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.past import Past
from asyncckpt.worker.questions import Questions
from asyncckpt.worker.ranks import Ranks
from asyncckpt.worker.reader import Reader
from asyncckpt.worker.relay import Relay
from asyncckpt.worker.settings import ProcessConfig
from asyncckpt.worker.ticket import Ticket
from asyncckpt.worker.wire import Message

if sys.platform == "linux":
    from asyncckpt.worker import jobs
    from asyncckpt.worker.brief import Brief
    from asyncckpt.worker.jobs import Jobs
    from asyncckpt.worker.link import Link, Waker
    from asyncckpt.worker.pending import Pending
    from asyncckpt.worker.shown import Shown

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")

_T = TypeVar("_T")

DEATHS = 3
"""So many deaths within `WINDOW` seconds, and no other worker process is tried."""
WINDOW = 60.0
SILENCE = 60.0
"""Seconds without a sign of life after which that is said."""
_PAUSES = (0.0, 0.25)
"""Seconds before a worker that died is replaced: at once, and then not quite, or three deaths are one."""


class ProcessExecutor:
    """The service in a process of its own; see `Executor` for the methods.

    `fall_back` makes the executor that goes on, from what it has to know, where no worker process can be kept alive.
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
        fall_back: Callable[[Past], Executor],
    ) -> None:
        self._root = storage.url
        self._listeners = listeners
        self._relay = Relay(ranks)
        self._fall_back = fall_back
        self._reader = Reader(Catalog(storage, config.monitor), config.beside.values())
        self._brief = Brief(recipe, config, process, ranks, clock)
        self._lock = threading.RLock()
        self._link: Link | None = None
        self._successor: Executor | None = None
        self._jobs = Jobs(self._lock, listeners)
        self._questions = Questions()
        self._heard: float | None = None
        self._is_silent = False
        self._clock = clock
        self._is_closed = False
        self._has_ended = False
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._waker = Waker()
        self._shown = Shown(self._waker.wake)
        self._thread = threading.Thread(target=self._run, name="asyncckpt-bridge", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._relay.close(0.0)
            raise

    # -- saves ---------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """See `Executor.submit`."""
        if ticket.memory is None:
            raise SaveFailed("this staging memory cannot be shared with another process")
        with self._lock:
            layout = self._shown.layout(ticket.job.layout)
        pending = Pending(ticket, layout)
        with self._lock:
            self._check_open()
            if self._successor is not None:
                self._successor.submit(ticket)
                return
            self._shown.watch(ticket)
            self._jobs.add(pending)
            ticket.watermark.follow(lambda: self._follow(pending))
            if self._link is not None:
                self._link.give(pending)
                self._wake_to_send()

    def _follow(self, pending: Pending) -> None:
        with self._lock:
            if self._link is not None and pending.id in self._jobs:
                self._link.follow(pending)
                self._wake_to_send()

    def withdraw(self, job: str) -> bool:
        """See `Executor.withdraw`."""
        with self._lock:
            pending = self._jobs.find(job)
            if pending is None:
                return self._successor is not None and self._successor.withdraw(job)
            if not pending.take():
                return False
            self._jobs.take(job)
            self._tell({"kind": "withdraw", "job": job})
        pending.keep()
        return True

    def abandon(self, job: str, by_step: int) -> None:
        """See `Executor.abandon`."""
        with self._lock:
            if self._successor is not None:
                self._successor.abandon(job, by_step)
            self._tell({"kind": "abandon", "job": job, "by_step": by_step})

    def staged(self, job: str, tell: Callable[[], None]) -> None:
        """See `Executor.staged`: the worker has everything that it needs to commit it without this process."""
        pending = self._jobs.find(job)
        if pending is None:
            tell()
        else:
            pending.when_kept(tell)

    def pace(self, share: float, seconds: float | None = None) -> None:
        """See `Executor.pace`."""
        with self._lock:
            self._brief.share = share if seconds is None else 1.0  # that of a worker to come
            if self._successor is not None:
                self._successor.pace(share, seconds)
            self._tell({"kind": "pace", "share": share, "seconds": seconds})

    @property
    def heard(self) -> float | None:
        """See `Executor.heard`."""
        return self._heard

    # -- reading, in this process --------------------------------------------------------------------------

    def read(self, call: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> _T:
        """See `Executor.read`."""
        return self._reader.read(call)

    def listing(self) -> Future[Listing]:
        """See `Executor.listing`."""
        return self._reader.start(lambda catalog: catalog.listing())

    @contextmanager
    def held(self, find: Callable[[Catalog], Coroutine[Any, Any, Checkpoint]]) -> Iterator[Checkpoint]:
        """See `Executor.held`."""
        checkpoint = self.read(find)
        seq = checkpoint.seq
        with self._lock:
            self._brief.hold(seq)
            self._tell({"kind": "hold", "seq": seq})
        try:
            yield checkpoint
        finally:
            with self._lock:
                self._brief.release(seq)
                self._tell({"kind": "release", "seq": seq})

    # -- questions -----------------------------------------------------------------------------------------

    def resume(self) -> Listing:
        """See `Executor.resume`."""
        # Before the run is taken, as the service does: what it lists then must not grow old.
        marks = self.read(lambda catalog: catalog.marks())
        answer = self._ask("resume")
        if isinstance(answer, Future):
            head = records.decode(answer.result().encode("ascii"), "the worker's record")
            return replace(self.read(lambda catalog: catalog.listing_of(head)), marks=marks)
        return answer.resume()

    def go_on(self, seq: int, damaged: Collection[int], *, named: bool, verified: Contents | None) -> None:
        """See `Executor.go_on`."""
        with self._lock:
            self._brief.past.damaged.update(damaged)
        text = None if verified is None else wire.contents_text(verified)
        answer = self._ask("go_on", seq=seq, damaged=list(damaged), named=named, verified=text)
        if isinstance(answer, Future):
            answer.result()
        else:
            answer.go_on(seq, damaged, named=named, verified=verified)

    def prune(self, *, dry_run: bool) -> PrunePlan:
        """See `Executor.prune`."""
        answer = self._ask("prune", dry_run=dry_run)
        return wire.plan_of(answer.result()) if isinstance(answer, Future) else answer.prune(dry_run=dry_run)

    def record(self, step: int, metrics: Mapping[str, float]) -> Future[None]:
        """See `Executor.record`."""
        answer = self._ask("record", step=step, metrics=dict(metrics))
        return answer if isinstance(answer, Future) else answer.record(step, metrics)

    def settle(self, timeout: float | None = None) -> bool:
        """See `Executor.settle`."""
        try:
            answer = self._ask("settled")
            if not isinstance(answer, Future):
                return answer.settle(timeout)
            answer.result(timeout)
        except TimeoutError:
            return False
        except (CheckpointerClosed, WorkerCrashed):
            pass  # told where it belongs: on the handles
        return True

    def _ask(self, name: str, **arguments: Any) -> Future[Any] | Executor:
        """Ask the worker; where there is no worker process any more, who is to be asked in its place."""
        with self._lock:
            self._check_open()
            if self._successor is not None:
                return self._successor
            question = self._questions.ask(name, arguments)
            if self._link is not None:
                self._tell(question.send())
            return question.answer

    # -- the end -------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """See `Executor.close`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._is_closed = True
            self._tell({"kind": "close"})
            successor = self._successor
        self._waker.wake()
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning("the background worker did not finish in %s s", timeout)
        self._relay.close(_left(deadline))
        self._reader.close(_left(deadline))
        if successor is not None:
            successor.close(_left(deadline))

    def _check_open(self) -> None:
        if self._is_closed:
            raise CheckpointerClosed("this checkpointer is closed")

    # -- the bridge's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                ended = self._one_worker()
                if ended is None or self._is_hopeless(ended):
                    break
        except BaseException as error:  # the thread's entry: whatever ends it must reach the handles
            logger.exception("the bridge to the worker process failed")
            self._give_up(f"the bridge to the worker process failed: {error!r}")
        finally:
            self._fail_questions(CheckpointerClosed("this checkpointer was closed during the call"))

    def _one_worker(self) -> str | None:
        """Serve one worker process to its end; returns how it died, or None if it ended in order."""
        self._has_ended = False
        try:
            with self._lock:
                brief = self._brief.message(SILENCE / 12)
            link = Link(self._root, brief)
        except OSError as error:
            return f"no worker process can be started: {error}"
        try:
            with self._lock:
                self._begin(link)
            while link.wait(self._waker.descriptor, SILENCE):
                self._waker.clear()
                self._hear(link)
                self._check_silence(link)
                self._forget(link)
                link.channel.flush()
                if link.channel.is_ended or link.channel.is_broken:
                    break
            self._hear(link)  # its last words
        finally:
            with self._lock:
                self._link = None
            self._relay.forget()
            how = link.end()
        return None if self._has_ended else how

    def _begin(self, link: Link) -> None:
        """Tell a new worker process everything that is still to be done."""
        self._link = link
        for pending in self._jobs:
            link.give(pending)
        for question in self._questions:
            link.channel.post(question.send())
        if self._is_closed:
            link.channel.post({"kind": "close"})

    def _is_hopeless(self, how: str) -> bool:
        """A worker has died: whether to give up; if not, whatever it had is ready for the next one."""
        logger.error("%s", how)
        now = time.monotonic()
        self._deaths.append(now)
        recent = [death for death in self._deaths if now - death < WINDOW]
        if len(recent) >= DEATHS:
            self._give_up(f"{len(recent)} deaths within {WINDOW:g} s, the last: {how}")
            return True
        with self._lock:
            gone = self._jobs.take_all(lambda pending: pending.is_lost)
            for pending in self._jobs:
                pending.renew()
        jobs.fail(gone, f"{how}; what it had read of the snapshot was given back")
        self._fail_questions(WorkerCrashed(f"the background worker ended during the call: {how}"))
        time.sleep(_PAUSES[min(len(recent), len(_PAUSES)) - 1])
        return False

    def _give_up(self, reason: str) -> None:
        with self._lock:
            left = self._jobs.take_all()
            if not self._is_closed:
                self._successor = successor = self._fall_back(self._brief.past)
                successor.pace(self._brief.share)
                for pending in left:
                    if not pending.is_given:
                        successor.submit(pending.ticket)
                        pending.keep()
                    elif pending.ticket.landed:
                        successor.submit(replace(pending.ticket, repeated=True))
                left = [pending for pending in left if pending.is_given and not pending.ticket.landed]
        if self._successor is not None:
            self._listeners.emit(Fallback("executor", f"{reason}; saves go on in a thread, and end with this process"))
        jobs.fail(left, reason)
        self._fail_questions(WorkerCrashed(f"the background worker ended during the call: {reason}"))

    def _fail_questions(self, error: AsyncCkptError) -> None:
        with self._lock:
            failed = self._questions.take_sent(everything=self._is_over)
        for question in failed:
            question.answer.set_exception(error)

    @property
    def _is_over(self) -> bool:
        return self._successor is not None or self._is_closed

    def _beat(self, message: Message) -> None:
        self._heard = self._clock.time()

    def _check_silence(self, link: Link) -> None:
        """Say, once, that the worker shows no sign of life. It is not ended: what holds it up would hold up another."""
        silent = link.silence
        if silent >= SILENCE and not self._is_silent:
            self._listeners.emit(
                Fallback(
                    "worker",
                    f"the worker process {link.process.pid} has given no sign for {silent:.0f} s: it is stopped, or "
                    "its machine or store holds it; saves wait for it",
                )
            )
        self._is_silent = silent >= SILENCE

    def _forget(self, link: Link) -> None:
        with self._lock:
            self._shown.forget(link, [pending.layout for pending in self._jobs])

    def _hear(self, link: Link) -> None:
        for message, _ in link.receive():
            _HANDLERS[message["kind"]](self, message)

    def _tell(self, message: Message) -> None:
        if self._link is not None:
            self._link.channel.post(message)
            self._wake_to_send()

    def _wake_to_send(self) -> None:
        if self._link is not None and self._link.channel.is_waiting:
            self._waker.wake()

    # -- what the worker says ------------------------------------------------------------------------------

    def _hello(self, message: Message) -> None:
        logger.debug("worker process %s is ready", message["pid"])
        with self._lock:
            if self._link is not None:
                self._link.ready(list(self._jobs))

    def _bye(self, message: Message) -> None:
        self._has_ended = True

    def _claimed(self, message: Message) -> None:
        with self._lock:
            self._brief.claimed(message)

    def _event(self, message: Message) -> None:
        self._listeners.emit(wire.event_of(message["event"]))

    def _relayed(self, message: Message) -> None:
        link = self._link
        self._relay.take(message, lambda answer: self._post(link, answer))

    def _post(self, link: Link | None, answer: Message) -> None:
        """Answer the worker that asked; another one would not know what for."""
        with self._lock:
            if link is self._link:
                self._tell(answer)

    def _answered(self, message: Message) -> None:
        with self._lock:
            question = self._questions.take(message["call"])
        if question is not None:
            question.hear(message)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


_HANDLERS: dict[str, Callable[[ProcessExecutor, Message], None]] = {
    "beat": ProcessExecutor._beat,
    "hello": ProcessExecutor._hello,
    "bye": ProcessExecutor._bye,
    "claim": ProcessExecutor._claimed,
    "event": ProcessExecutor._event,
    "answer": ProcessExecutor._answered,
    "ranks": ProcessExecutor._relayed,
    "started": lambda bridge, message: bridge._jobs.started(message),
    "landed": lambda bridge, message: bridge._jobs.landed(message),
    "missed": lambda bridge, message: bridge._jobs.missed(message),
    "taken": lambda bridge, message: bridge._jobs.taken(message),
    "committed": lambda bridge, message: bridge._jobs.committed(message),
    "rejected": lambda bridge, message: bridge._jobs.rejected(message),
    "declined": lambda bridge, message: bridge._jobs.declined(message),
}
