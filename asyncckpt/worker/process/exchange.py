"""Exchange: what a trainer wants of its worker processes and has not been answered, and which of them has it now.

It outlives each of them: what one leaves undone is the next one's, in the same order. Any thread may call, and none
waits for a worker: what the socket does not take at once is left to the thread that attends to it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from asyncckpt.errors import AsyncCkptError, CheckpointerClosed
from asyncckpt.events import Listeners
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.worker.commitlog.past import Past
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.process.ignored import IgnoredMessages
from asyncckpt.worker.process.questions import Question, Questions
from asyncckpt.worker.process.wire import Message
from asyncckpt.worker.ticket import Ticket

if sys.platform == "linux":
    from asyncckpt.worker.process.brief import Brief
    from asyncckpt.worker.process.jobs import Jobs
    from asyncckpt.worker.process.link import Link, Waker
    from asyncckpt.worker.process.pending import Pending
    from asyncckpt.worker.process.shown import Shown

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out


class Exchange:
    """Of one trainer, whose worker processes are told `brief` before anything else."""

    def __init__(self, brief: Brief, listeners: Listeners, ignored: IgnoredMessages) -> None:
        self._lock = threading.RLock()
        self._brief = brief
        self._questions = Questions()
        self._successor: Executor | None = None
        self._is_closed = False
        self.jobs = Jobs(self._lock, listeners, ignored)
        self.waker = Waker()
        """Wakes the thread that attends to the link."""
        self._shown = Shown(self.waker.wake)
        self.link: Link | None = None
        """To the worker process that is told things now; changed by that thread alone."""

    # -- what is wanted ------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """See `Executor.submit`."""
        with self._lock:
            layout = self._shown.layout(ticket.job.layout)
        pending = Pending(ticket, layout)
        with self._lock:
            self._check_open()
            if self._successor is not None:
                self._successor.submit(ticket)
                return
            self._shown.watch(ticket)
            self.jobs.add(pending)
            ticket.watermark.follow(lambda: self._follow(pending))
            if self.link is not None:
                self.link.give(pending)
                self._wake_to_send()

    def _follow(self, pending: Pending) -> None:
        with self._lock:
            if self.link is not None and pending.id in self.jobs:
                self.link.follow(pending)
                self._wake_to_send()

    def withdraw(self, job: str) -> bool:
        """See `Executor.withdraw`."""
        with self._lock:
            pending = self.jobs.find(job)
            if pending is None:
                return self._successor is not None and self._successor.withdraw(job)
            if not pending.take():
                return False
            self.jobs.take(job)
            self.tell({"kind": "withdraw", "job": job})
        pending.keep()
        return True

    def abandon(self, job: str, by_step: int) -> None:
        """See `Executor.abandon`."""
        with self._lock:
            if self._successor is not None:
                self._successor.abandon(job, by_step)
            self.tell({"kind": "abandon", "job": job, "by_step": by_step})

    def hurry(self) -> None:
        """See `Executor.hurry`."""
        with self._lock:
            if self._successor is not None:
                self._successor.hurry()
            self.tell({"kind": "hurry"})

    def pace(self, share: float, seconds: float | None) -> None:
        """See `Executor.pace`."""
        with self._lock:
            self._brief.share = share if seconds is None else 1.0  # that of a worker to come
            if self._successor is not None:
                self._successor.pace(share, seconds)
            self.tell({"kind": "pace", "share": share, "seconds": seconds})

    @contextmanager
    def held(self, seq: int) -> Iterator[None]:
        """Within it, retention leaves that checkpoint alone."""
        with self._lock:
            self._brief.hold(seq)
            self.tell({"kind": "hold", "seq": seq})
        try:
            yield
        finally:
            with self._lock:
                self._brief.release(seq)
                self.tell({"kind": "release", "seq": seq})

    def found(self, finding: Finding, damage: Damage) -> None:
        """A checkpoint was found damaged."""
        with self._lock:
            self._brief.past.found[finding] = damage

    def ask(self, name: str, **arguments: Any) -> Future[Any] | Executor:
        """Ask the worker; where there is no worker process any more, who is to be asked in its place."""
        with self._lock:
            self._check_open()
            if self._successor is not None:
                return self._successor
            question = self._questions.ask(name, arguments)
            if self.link is not None:
                self.tell(question.send())
            return question.answer

    def close(self) -> Executor | None:
        """Nothing more is wanted; who has taken the place of worker processes, and is to be closed too."""
        with self._lock:
            self._is_closed = True
            self.tell({"kind": "close"})
            successor = self._successor
        self.waker.wake()
        return successor

    def _check_open(self) -> None:
        if self._is_closed:
            raise CheckpointerClosed("this checkpointer is closed")

    def tell(self, message: Message, *, only: Link | None = None) -> None:
        """Tell the worker process of now, or none if it is not the `only` one that this is for."""
        with self._lock:
            if self.link is not None and only in (None, self.link):
                self.link.channel.post(message)
                self._wake_to_send()

    def _wake_to_send(self) -> None:
        if self.link is not None and self.link.channel.is_waiting:
            self.waker.wake()

    # -- one worker process after the other ----------------------------------------------------------------

    def briefing(self) -> Message:
        """What the next one is told before anything else."""
        code_version = self._brief.code_version()  # may take seconds, and the thread that trains wants the lock
        with self._lock:
            return {**self._brief.message(), "code_version": code_version}

    def claimed(self, message: Message) -> None:
        """What the run is to this training, has changed."""
        with self._lock:
            self._brief.claimed(message)

    @property
    def is_alive(self) -> bool:
        """Whether there is a worker process now, or what has taken the place of any."""
        link, successor = self.link, self._successor
        if successor is not None:
            return successor.is_alive is not False
        return link is not None and link.process.returncode is None

    def begin(self, link: Link) -> None:
        """Tell a new one everything that is still to be done."""
        with self._lock:
            self.link = link
            for pending in self.jobs:
                link.give(pending)
            for question in self._questions:
                link.channel.post(question.send())
            if self._is_closed:
                link.channel.post({"kind": "close"})

    def ready(self) -> None:
        """It commits what is complete from now on, whatever becomes of this process."""
        with self._lock:
            if self.link is not None:
                self.link.ready(list(self.jobs))

    def forget(self, link: Link) -> None:
        """Tell it of what is gone."""
        with self._lock:
            self._shown.forget(link, [pending.layout for pending in self.jobs])

    def answered(self, call: int) -> Question | None:
        """The question that is answered now; None if nobody waits for it any more."""
        with self._lock:
            return self._questions.take(call)

    def unanswered(self, most: float) -> list[Question]:
        """What nobody has answered yet; see `Question.look`."""
        with self._lock:
            found = list(self._questions)
            for question in found:
                question.look(most)
            return found

    def leave(self) -> None:
        """It is told nothing more."""
        with self._lock:
            self.link = None

    def leave_if_asked(self) -> list[Question]:
        """The same, if somebody waits for its answer: those questions, which nobody will answer."""
        with self._lock:
            asked = self._questions.take_sent(everything=self._is_over)
            if asked:
                self.link = None  # who asks from now on asks the next one
            return asked

    def renew(self) -> list[Pending]:
        """It is dead: whatever it had is ready for the next one, but for these jobs, which are lost with it."""
        with self._lock:
            lost = self.jobs.take_all(lambda pending: pending.is_lost)
            for pending in self.jobs:
                pending.renew()
            return lost

    def fail_questions(self, error: AsyncCkptError) -> None:
        """Nobody will answer what it was asked, and nobody anything where there will be no other one."""
        with self._lock:
            failed = self._questions.take_sent(everything=self._is_over)
        for question in failed:
            question.answer.set_exception(error)

    def end(self, fall_back: Callable[[Past], Executor]) -> tuple[list[Pending], bool]:
        """There will be no other one: what it had not been given goes to what `fall_back` makes, unless all is closed.

        The jobs that are left, and whether anything goes on.
        """
        with self._lock:
            left = self.jobs.take_all()
            if self._is_closed:
                return left, False
            self._successor = successor = fall_back(self._brief.past)
            successor.pace(self._brief.share)
            for pending in left:
                if not pending.is_given:
                    successor.submit(pending.ticket)
                    pending.keep()
                elif pending.ticket.landed:
                    successor.submit(replace(pending.ticket, repeated=True))
            return [pending for pending in left if pending.is_given and not pending.ticket.landed], True

    @property
    def _is_over(self) -> bool:
        return self._successor is not None or self._is_closed
