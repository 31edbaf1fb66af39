"""Succession: the worker processes of one trainer. One thread starts each, hears it, and replaces it when it dies.

A worker's death costs no save: the next one gets what was not answered, in the same order, and finds out what the dead
one has committed without having said so. Only the third death within a minute ends that: the jobs fail, and the service
goes on in a thread of this process, visibly.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from asyncckpt.errors import CheckpointerClosed, WorkerCrashed, WorkerLate
from asyncckpt.events import Fallback, Listeners
from asyncckpt.worker.commitlog.past import Past
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.process.relay import Relay

if sys.platform == "linux":
    from asyncckpt.worker.process import jobs
    from asyncckpt.worker.process.exchange import Exchange
    from asyncckpt.worker.process.link import Link
    from asyncckpt.worker.process.replies import Replies

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")

DEATHS = 3
"""So many deaths within `WINDOW` seconds, and no other worker process is tried."""
WINDOW = 60.0
SILENCE = 60.0
"""Seconds without a sign of life after which that is said, and nobody waits for an answer any more."""
_BEATS = 12
"""Signs of life in that time."""
_PAUSES = (0.0, 0.25)
"""Seconds before a worker that died is replaced: at once, and then not quite, or three deaths are one."""


class Succession:
    """Worker processes that save into `root`; `fall_back` makes the executor that goes on where none can be kept alive.

    An answer of one that lives is waited for `patience` seconds at most. Raises `RuntimeError` where there is no thread
    to be had.
    """

    def __init__(
        self,
        root: str,
        exchange: Exchange,
        replies: Replies,
        relay: Relay,
        listeners: Listeners,
        patience: float,
        fall_back: Callable[[Past], Executor],
    ) -> None:
        self._root = root
        self._exchange = exchange
        self._replies = replies
        self._relay = relay
        self._listeners = listeners
        self._patience = patience
        self._fall_back = fall_back
        self._is_silent = False
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._thread = threading.Thread(target=self._run, name="asyncckpt-bridge", daemon=True)
        self._thread.start()

    def join(self, timeout: float | None) -> None:
        """Return once the last one has ended, after the exchange was closed, or after `timeout` seconds."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning("the background worker did not finish in %s s", timeout)

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
            self._exchange.fail_questions(CheckpointerClosed("this checkpointer was closed during the call"))

    def _one_worker(self) -> str | None:
        """Serve one worker process to its end; returns how it died, or None if it ended in order."""
        self._replies.has_ended = False
        try:
            link = Link(self._root, self._exchange.briefing(), SILENCE / _BEATS)
        except OSError as error:
            return f"no worker process can be started: {error}"
        try:
            self._exchange.begin(link)
            while link.wait(self._exchange.waker.descriptor):
                self._exchange.waker.clear()
                self._hear(link)
                if self._is_in_the_way(link):
                    break
                self._tell_who_waits(link)
                self._exchange.forget(link)
                link.channel.flush()
                if link.channel.is_ended or link.channel.is_broken:
                    break
            self._hear(link)  # its last words
        finally:
            self._exchange.leave()
            self._relay.forget()
            how = link.end()
        return None if self._replies.has_ended else how

    def _hear(self, link: Link) -> None:
        for message, _ in link.receive():
            self._replies.take(message)

    def _is_in_the_way(self, link: Link) -> bool:
        """Whether the worker shows no sign of life, which is said once, while somebody waits for its answer.

        For saves it is not ended: what holds it up would hold up another, and training goes on. But whoever waits for
        an answer is told that none will come, and then another one may as well take its place.
        """
        was_silent, self._is_silent = self._is_silent, link.silence >= SILENCE
        if not self._is_silent:
            return False
        what = f"the worker process {link.process.pid} has given no sign for {link.silence:.0f} s"
        if not was_silent:
            reason = f"{what}: it is stopped, or its machine or store holds it; saves wait for it"
            self._listeners.emit(Fallback("worker", reason))
        asked = self._exchange.leave_if_asked()
        if asked:
            link.kill()
        for question in asked:
            question.answer.set_exception(
                WorkerCrashed(
                    f"{what}, so that the call was given up and the process killed; another one takes its place, with "
                    f"all saves that are under way: call again. If that one falls silent too, look what holds it: "
                    f"{self._root}, or the machine; executor='thread' does without it"
                )
            )
        return bool(asked)

    def _tell_who_waits(self, link: Link) -> None:
        """Whoever waits for an answer of a worker that lives hears for how long by now, and at last that none came.

        The worker is left alone then: it may be about to commit a save, and another one would meet the same store.
        """
        for question in self._exchange.unanswered(2 * SILENCE / _BEATS):
            what = f"the worker process {link.process.pid} lives, and has not answered {question.name}"
            if question.waited >= self._patience:
                if self._exchange.answered(question.number) is not None:
                    question.answer.set_exception(
                        WorkerLate(
                            f"{what} within {self._patience:g} s: look what holds it, {self._root} or the machine; "
                            f"ProcessConfig(answer_timeout=) is how long to wait"
                        )
                    )
            elif question.is_to_be_told():
                reason = f"{what} for {question.waited:.0f} s: {self._root} is slow, or hangs"
                self._listeners.emit(Fallback("worker", f"{reason}; that is waited for {self._patience:g} s in all"))

    def _is_hopeless(self, how: str) -> bool:
        """A worker has died: whether to give up; if not, whatever it had is ready for the next one."""
        logger.error("%s", how)
        now = time.monotonic()
        self._deaths.append(now)
        recent = [death for death in self._deaths if now - death < WINDOW]
        if len(recent) >= DEATHS:
            self._give_up(f"{len(recent)} deaths within {WINDOW:g} s, the last: {how}")
            return True
        jobs.fail(self._exchange.renew(), f"{how}; what it had read of the snapshot was given back")
        self._exchange.fail_questions(WorkerCrashed(f"the background worker ended during the call: {how}"))
        time.sleep(_PAUSES[min(len(recent), len(_PAUSES)) - 1])
        return False

    def _give_up(self, reason: str) -> None:
        left, goes_on = self._exchange.end(self._fall_back)
        if goes_on:
            self._listeners.emit(Fallback("executor", f"{reason}; saves go on in a thread, and end with this process"))
        jobs.fail(left, reason)
        self._exchange.fail_questions(WorkerCrashed(f"the background worker ended during the call: {reason}"))
