"""Save handle: the future of one save.

::

    staging -> writing -> durable
       |          |----> failed
       |          |----> superseded   it is on the local tier, and a newer one went to the root in its place
       |          `----> skipped      an emergency had time for the local tier only, and is there
       |---> superseded   a newer snapshot took its place before it was written
       `---> skipped      every generation was busy, or it would have held training for longer than it may
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Literal, TypeAlias

from asyncckpt.checkpoints.listing import CheckpointInfo
from asyncckpt.errors import (
    CheckpointerClosed,
    CheckpointTimeoutError,
    PreemptionTimeoutError,
    SaveError,
    SaveFailed,
    SaveSkipped,
    SaveSuperseded,
)
from asyncckpt.events import HOME
from asyncckpt.saves.waiting import Ends, Waiting
from asyncckpt.staging.patience import Patience

Status: TypeAlias = Literal["staging", "writing", "durable", "failed", "skipped", "superseded"]

KEPT = 1000
"""Failed saves that nobody was told of, at most."""

_FINAL = ("durable", "failed", "skipped", "superseded")


class SaveHandle:
    """What became of one save. Every method may be called from any thread.

    `settle` compares a snapshot that is being verified with the live tensors: waiting without it would wait
    for an optimizer step that the waiting thread itself would have to make. That of an emergency save has a `deadline`
    (of the monotonic clock), at which who waits for it is let go. `tiers` are those that have a save
    before it is durable, `patience` what counts for how long it held training. What `ends` comes to say is the deadline
    of whoever waits for any save.
    """

    def __init__(
        self,
        step: int,
        settle: Callable[[], None] = lambda: None,
        *,
        deadline: float | None = None,
        nbytes: int = 0,
        tiers: Collection[str] = (),
        patience: Patience | None = None,
        ends: Ends | None = None,
    ) -> None:
        self.step = step
        self._patience = patience or Patience(step)
        self.deadline = deadline
        self.nbytes = nbytes
        """Bytes of state in its snapshot."""
        self.began: float | None = None
        """When writing began, by the monotonic clock."""
        self._tiers = tiers
        self._ends = ends
        self._nearer: CheckpointInfo | None = None
        self._miss: BaseException | None = None
        self._settle = settle
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._status: Status = "staging"
        self._staged = False
        self._seq: int | None = None
        self._info: CheckpointInfo | None = None
        self._error: SaveError | None = None
        self._frames: BaseException | None = None
        self._newer: SaveHandle | None = None
        self._told = False

    def __repr__(self) -> str:
        return f"<SaveHandle step={self.step} {self._status}>"

    @property
    def status(self) -> Status:
        """Where the save is now."""
        return self._status

    @property
    def id(self) -> str:
        """The checkpoint's id; waits until the save has left the queue. Raises if it never will."""
        with self._changed:
            self._wait_for(lambda: self._seq is not None or self.done())
            if self._seq is None:
                raise self._failure()
            return f"{self._seq:08d}"

    @property
    def error(self) -> BaseException | None:
        """Why the save failed, or None. Asking does not count as having been told."""
        return self._error.__cause__ or self._error if self._error is not None else None

    @property
    def held(self) -> float:
        """Seconds for which it has held the training thread by now, in its call and at the optimizer together."""
        return self._patience.spent

    @property
    def is_over_budget(self) -> bool:
        """Whether it has held training for longer than ``Budget(stall_ms=)``, also where it was made all the same."""
        return self._patience.is_over

    def done(self) -> bool:
        """Whether the save is durable, failed, skipped or superseded."""
        return self._status in _FINAL

    def wait_staged(self, timeout: float | None = None) -> None:
        """Wait until the snapshot is complete: from then on everything may change. Raises as `wait` does.

        With a worker process, it will become durable from then on although this process is killed; with several ranks,
        from when that is so on all of them.
        """
        self._settle()
        with self._changed:
            if not self._wait_for(lambda: self._staged or self.done(), timeout):
                raise CheckpointTimeoutError(f"the snapshot of step {self.step} was not complete after {timeout} s")
            if not self._staged:
                raise self._failure()

    def wait(self, timeout: float | None = None, *, tier: str = HOME) -> CheckpointInfo:
        """Wait until the save is durable (`timeout` in seconds) and return what was committed.

        Raises `SaveFailed`, `SaveSkipped` or `SaveSuperseded` if it never will be, and `CheckpointTimeoutError`. What
        took its place is named by its step, and by its id once it has one. With a deadline, or once there was notice
        that the process will be killed, `PreemptionTimeoutError` is raised in time, in any thread.

        Durable is what is in the root. With ``tier="local"`` wait until it is on the local tier, and on its way to the
        root: `SaveFailed` is raised as well where the local tier does not have it.
        """
        if tier not in (HOME, *self._tiers):
            raise ValueError(f"wait(tier={tier!r}): use one of {', '.join((HOME, *self._tiers))}")
        if tier != HOME:
            return self._wait_nearer(tier, timeout)
        self._wait_until_done(timeout)
        return self._outcome()

    def _wait_until_done(self, timeout: float | None = None) -> None:
        self._settle()
        with self._changed:
            if not self._wait_for(self.done, timeout):
                raise CheckpointTimeoutError(f"the save of step {self.step} was still {self._status} after {timeout} s")

    def _outcome(self) -> CheckpointInfo:
        """What was committed, or why nothing was, raised: from now on somebody knows."""
        if self._info is None:
            raise self._failure()
        return self._info

    def _wait_nearer(self, tier: str, timeout: float | None) -> CheckpointInfo:
        self._settle()
        with self._changed:
            if not self._wait_for(lambda: bool(self._nearer or self._miss or self.done()), timeout):
                raise CheckpointTimeoutError(f"step {self.step} was not on the {tier} tier after {timeout} s")
            if self._nearer is not None:
                return self._nearer
            if self._miss is None and self._info is None:
                raise self._failure()
            why = self._miss or "see the log"
            raise SaveFailed(f"step {self.step} is not on the {tier} tier: {why}") from self._miss

    def __await__(self) -> Generator[Any, None, CheckpointInfo]:
        return self._awaited().__await__()

    async def _awaited(self) -> CheckpointInfo:
        await asyncio.to_thread(self._wait_until_done)
        return self._outcome()  # here: a thread whose caller was cancelled meanwhile would tell nobody

    def _wait_for(self, reached: Callable[[], bool], timeout: float | None = None) -> bool:
        """Whether that came to hold in time; raises `PreemptionTimeoutError` where the process is killed before."""
        if os.getpid() != self._process and not reached():
            raise CheckpointerClosed(f"the save of step {self.step} belongs to the process that was forked")
        waiting = Waiting(timeout, self._ends, self.deadline)
        if waiting.wait(lambda seconds: self._changed.wait_for(reached, seconds)):
            return True
        if waiting.is_cut_short:
            kind = "save" if self.deadline is None else "emergency save"
            raise PreemptionTimeoutError(
                f"the {kind} of step {self.step} was still {self._status} at its deadline; what was durable before is "
                "as it was"
            )
        return False

    def _failure(self) -> SaveError:
        self._told = True
        newer = self._newer
        while newer is not None and newer._newer is not None:
            newer = newer._newer
        if newer is not None:
            return superseded(self.step, _named(newer), is_nearer=self.is_nearer)
        return self._error or SaveFailed(f"the save of step {self.step} ended without a reason")

    # -- for the saver -------------------------------------------------------------------------------------

    def _began(self, seq: int) -> None:
        with self._changed:
            self._seq = seq
            self.began = time.monotonic()
            if not self.done():
                self._status = "writing"
            self._changed.notify_all()

    def _landed(self, info: CheckpointInfo) -> None:
        with self._changed:
            self._nearer = info
            self._changed.notify_all()

    def _missed(self, error: BaseException) -> None:
        with self._changed:
            self._miss = error
            self._changed.notify_all()

    def _is_staged(self) -> None:
        with self._changed:
            self._staged = True
            self._changed.notify_all()

    def _give_way(self, step: int, handles: Sequence[SaveHandle]) -> None:
        """A newer snapshot, of `step`, takes this one's place; if it is among `handles`, it comes to have an id."""
        later = itertools.takewhile(lambda handle: handle is not self, reversed(handles))
        with self._changed:
            if not self.done():
                self._newer = next((handle for handle in later if handle.step == step), None)
            self._end("superseded", error=superseded(self.step, f"step {step}", is_nearer=self.is_nearer))

    def _end(self, status: Status, info: CheckpointInfo | None = None, error: SaveError | None = None) -> None:
        with self._changed:
            if not self.done():
                self._status, self._info, self._error = status, info, error
                self._frames = error
                self._staged = self._staged or info is not None
            self._changed.notify_all()

    @property
    def is_nearer(self) -> bool:
        """Whether it is on a tier that has it before it is durable."""
        return self._nearer is not None

    @property
    def is_untold(self) -> bool:
        """Whether the save failed and nobody has been told."""
        return self._status == "failed" and not self._told

    def _let_frames_go(self) -> None:
        """What went wrong keeps its traceback, and nothing else of the calls that it went through."""
        if self._frames is not None and _let_go(self._frames):
            self._frames = None

    def _tell(self) -> None:
        """From now on somebody knows of the failure."""
        self._told = True


def _let_go(error: BaseException | None) -> bool:
    """Of what the frames hold that it went through; whether all are over: who ends the save is not at its end yet."""
    are_over = True
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            try:
                frame.clear()
            except RuntimeError:  # in another thread it runs still
                are_over = False
        error = error.__cause__ or error.__context__
    return are_over


def skipped(left_out: SaveHandle, handles: Sequence[SaveHandle]) -> SaveSkipped:
    """Why a save never took a snapshot, naming the newest of `handles` before it that is under way."""
    before = itertools.takewhile(lambda handle: handle is not left_out, handles)
    busy = [handle for handle in before if not handle.done()]
    newest = f"; the newest under way is that of {_named(busy[-1])}" if busy else ""
    return SaveSkipped(
        f"the save of step {left_out.step} was skipped: every generation was still being copied or written{newest}"
    )


def superseded(step: int, by: str, *, is_nearer: bool = False) -> SaveSuperseded:
    """Why a snapshot was never written, or, where it `is_nearer`, never taken to the root."""
    if is_nearer:
        return SaveSuperseded(f"step {step} is on the local tier only: {by} took its place on the way to the root")
    return SaveSuperseded(f"the snapshot of step {step} was replaced by the one of {by} before it was written")


def _named(handle: SaveHandle) -> str:
    """A save by its step, and by its id where it has one."""
    return f"step {handle.step}" + ("" if handle._seq is None else f" (id {handle._seq:08d})")


def remembered(handles: Sequence[SaveHandle]) -> list[SaveHandle]:
    """Those that are under way, and the newest that failed and nobody was told of.

    A store may be down for as many steps as a day has. Each failure was logged and counted; what the frames that it
    went through still hold is let go.
    """
    failed = [handle for handle in handles if handle.is_untold]
    for handle in failed:
        handle._let_frames_go()
    kept = set(failed[-KEPT:])
    return [handle for handle in handles if not handle.done() or handle in kept]


def untold(handles: Sequence[SaveHandle]) -> SaveFailed | None:
    """One error for the failed saves that nobody has been told of; from now on somebody has."""
    failures = [handle for handle in handles if handle.is_untold]
    for handle in failures:  # and no others: one of the same step may be under way, and fail for a reason of its own
        handle._tell()
    known = {handle.step: error for handle in failures if (error := handle.error) is not None}
    if not known:
        return None
    first = next(iter(known.values()))
    steps = ", ".join(map(str, known))
    count = f"{len(known)} or more saves" if len(known) >= KEPT else f"{len(known)} save(s)"
    failed = SaveFailed(f"{count} failed (step {steps}), the first: {first}", known)
    failed.__cause__ = first
    return failed


def ended(handles: Sequence[SaveHandle], left: Sequence[SaveHandle], limit: float) -> SaveFailed | None:
    """What `close` raises: failures not told yet, and the saves that are `left` unfinished after `limit` seconds."""
    failed = untold(handles)
    if not left:
        return failed
    late = {handle.step: TimeoutError(f"not durable after {limit:g} s") for handle in left}
    told = f"; {failed}" if failed else ""
    unfinished = SaveFailed(
        f"closed after {limit:g} s with saves unfinished: steps {list(late)}{told}",
        late | dict(failed.failures if failed else {}),
    )
    unfinished.__cause__ = failed
    return unfinished


def wait_all(handles: list[SaveHandle], waiting: Waiting) -> list[SaveHandle]:
    """Wait for all of them together; returns those still under way when that is over."""
    for handle in handles:
        with handle._changed:
            waiting.wait(functools.partial(handle._changed.wait_for, handle.done))
    return [handle for handle in handles if not handle.done()]
