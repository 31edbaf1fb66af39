"""Snapshot: the state at one step, on its way into an arena.

Its life: captured (EAGER bytes are safe) -> enqueued (LAZY bytes of host memory are copied, those of devices on their
way) -> copied -> sealed (it may be committed) or aborted. Whatever goes wrong in a copy fails this one snapshot and
opens every latch: training never hangs on it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from asyncckpt.errors import SaveSuperseded, TornSnapshot
from asyncckpt.format.contents import Path
from asyncckpt.staging import backlog
from asyncckpt.staging.arena import Lender
from asyncckpt.staging.backlog import Backlog
from asyncckpt.staging.comparison import Comparison
from asyncckpt.staging.filling import Filling
from asyncckpt.staging.lane import Lane, Marked
from asyncckpt.staging.offloaded import marks
from asyncckpt.staging.patience import Patience
from asyncckpt.staging.schedule import Schedule
from asyncckpt.staging.streams import is_capturing
from asyncckpt.staging.window import Copy, occupied
from asyncckpt.worker.watermark import Watermark

logger = logging.getLogger("asyncckpt")

Later = Callable[[Callable[[], None]], None]
"""Have the waiting thread call something, after what it was given before."""


class Snapshot:
    """Made on the thread that trains, between two steps; `tell` is called once all copies are in the arena."""

    def __init__(
        self,
        step: int,
        schedule: Schedule,
        lender: Lender,
        later: Later,
        tell: Callable[[Snapshot], None],
        *,
        verify: bool,
        patience: Patience | None,
    ) -> None:
        self.step = step
        self.patience = patience
        self.is_given_up = False
        """Whether it would have held training for longer than it may."""
        self.arena = schedule.arena
        self.watermark = Watermark()
        if self.arena.window is not None:
            self.watermark.through_window(self.arena.give_back)
        self.started = time.monotonic()
        self.enqueued = threading.Event()
        self.copied = threading.Event()
        self._schedule = schedule
        self._tensors: Mapping[Path, Tensor] = {}
        """Handed out for this save alone, and to be kept until it was copied and compared."""
        self._comparisons: list[Comparison] = []
        """Under way; they hold the same."""
        self._backlog = Backlog(backlog.MOST * len(schedule.lanes))
        self._verify = verify
        self._checking = threading.Lock()
        self._judged = threading.Event()
        self._judged.set()
        self._cancelled = False
        self._taken = False
        self._lender = lender
        self._later = later
        self._tell = tell
        self._holders = 2
        self._is_broken = False
        """Whether a device said that a copy has failed."""
        self._is_lost = False
        self._releasing = threading.Lock()
        self._fences: list[torch.Event] = []
        self._written: list[torch.Event] = []
        """By when devices have written what is LAZY in host memory."""
        self._marks: list[Marked] = []
        self._ends: list[tuple[Lane, torch.Event]] = []

    # -- on the thread that trains ---------------------------------------------------------------------------

    def capture(self, tensors: Mapping[Path, Tensor]) -> None:
        """Copy what is EAGER, or have the device do that before anything else; `tensors` are this save's alone."""
        eager, lazy = self._schedule.offloaded(tensors)
        written = marks(self._schedule.lanes) if eager or lazy else []
        _wait_for(written if eager else ())  # in the call: training may change it when that returns
        self._written = written if lazy else []
        self._schedule.copy_eager(tensors)
        self._tensors = self._schedule.lent(tensors)
        try:
            for lane in self._schedule.lanes:
                fence = lane.capture(tensors)
                self._fences.append(fence)
                if lane.in_order:
                    self._marks += lane.send_in_order(fence, tensors, pinned=self._is_pinned(lane))
        except BaseException:
            self._drain()  # the arena goes back to whoever lent it
            if self._is_lost:
                self._lender.quarantine(self.arena)
            raise
        # Not before: the worker believes the watermark.
        self._filling = Filling(self._schedule.starts, self._schedule.plan.layout.size, self.watermark)

    def guard(self) -> None:
        """Return once the LAZY bytes may be changed: they are copied, or the current streams wait until they are.

        Where this save is one to verify, they are compared with the copies first, at the replay of what is captured
        now. Where that would take longer than it may, the save is given up.
        """
        self._backlog.open()
        if not self._wait_enqueued():
            self._give_up()
            if not self._schedule.lanes:
                return  # what is being copied still may be torn: nobody will read it
            self.enqueued.wait()
        if is_capturing():  # nothing changes before a replay, and a graph cannot wait for what is outside of it
            self.copied.wait()
            return
        if self._verify:
            with self._checking:
                if self._verify:
                    self._compare()
        if self._ends and not self.settled:
            self._hold()

    def _wait_enqueued(self) -> bool:
        return self.enqueued.wait() if self.patience is None else self.patience.wait(self.enqueued.wait)

    def _give_up(self) -> None:
        if self.patience is not None and not self._cancelled:
            self.stop()
            self.watermark.abort(self.patience.exhausted("its copy was not complete"))
            self.is_given_up = self.watermark.error is not None  # it may have been sealed right now

    def _hold(self) -> None:
        for lane, end in self._ends:  # every time: a wait on one stream does not hold another
            lane.device.hold(end)

    def _compare(self) -> None:
        torn: list[Path] = []
        try:
            if not self._cancelled:
                torn = [path for group in self._schedule.lazy for path in group.changed(self._tensors)]
                self._comparisons = [
                    Comparison(lane, self._tensors, pinned=self._is_pinned(lane)) for lane in self._schedule.lanes
                ]
            if self._comparisons:
                self._ends = [(lane, c.end) for lane, c in zip(self._schedule.lanes, self._comparisons, strict=True)]
                self._judged.clear()
                self._later(functools.partial(self._judge_later, torn))
            else:
                self._judge(torn)
        except Exception as error:  # no memory to compare in: this save's failure, and no reason to stop training
            self.watermark.abort(error)
        finally:
            # Only now: until here a step of another thread has to wait, or it would change what is compared.
            self._verify = False
            self._let_go()

    # -- on the staging thread -------------------------------------------------------------------------------

    def take(self) -> bool:
        """Whether this is the first call: a snapshot is copied once, however often it is queued."""
        taken, self._taken = self._taken, True
        return not taken

    def copy(self, staged: Callable[[], None]) -> None:
        """Copy the LAZY bytes of host memory and enqueue those of devices; calls `staged` once all are in the arena."""
        is_whole = False
        try:
            is_whole = self._copy_all() if self.arena.window is None else self._copy_through()
        except Exception as error:  # whatever it is belongs on this save's handle, and must not stop training
            self.watermark.abort(error)
        finally:
            self._mark_ends()
            then = staged if is_whole else None
            if self._ends:
                self._later(functools.partial(self._conclude, then))
            else:
                self._end(then)
            self.enqueued.set()  # last: a guard may have something to add for the thread that waits

    def _mark_ends(self) -> None:
        try:
            self._ends = [(lane, lane.device.mark_side()) for lane in self._schedule.lanes]
        except Exception as error:
            self.watermark.abort(error)
            self._drain()

    def _copy_all(self) -> bool:
        """Those of host memory are made while devices make what they have been given."""
        for start, event in self._marks:
            self._later(functools.partial(self._arrive, start, 0, event))
        # In turns, so that all of several devices are busy.
        turns = itertools.zip_longest(*self._on_devices())
        queue = deque(copy for copy in itertools.chain.from_iterable(turns) if copy is not None)
        self._send(queue, wait=False)
        _wait_for(self._written)
        for group in self._schedule.lazy:
            self._send(queue, wait=False)
            if self._cancelled:
                return False
            group.copy(self._tensors)
            self._filling.finish(group.start)
        self._send(queue, wait=True)
        return not queue

    def _send(self, queue: deque[tuple[Lane, Copy]], *, wait: bool) -> None:
        """Give copies to devices, for as long as there is room for them; with `wait` all of them."""
        while queue:
            lane, copy = queue[0]
            nbytes = copy.end - copy.start
            if not self._backlog.enter(nbytes, wait=wait) or self._cancelled:
                return
            queue.popleft()
            copy.make()
            self._later(functools.partial(self._arrive, copy.start, nbytes, lane.device.mark_side()))

    def _copy_through(self) -> bool:
        """In file order, each once the reader has taken so much that there is room for it."""
        _wait_for(self._written)
        for start, event in self._marks:
            event.synchronize()
            self._filling.finish(start)
        self._marks = []
        room = (self.arena.window or 0) - occupied(self._schedule.plan)
        for copy in sorted(self._copies(), key=lambda copy: copy.start):
            self.watermark.wait_taken(copy.end - room)
            if self._cancelled:
                return False
            copy.make()
            self._filling.finish(copy.start)
        return True

    def _copies(self) -> Iterator[Copy]:
        for group in self._schedule.lazy:
            yield Copy(group.start, group.end, functools.partial(group.copy, self._tensors))
        for lane, copy in itertools.chain.from_iterable(self._on_devices()):
            yield Copy(copy.start, copy.end, functools.partial(_complete, lane, copy))

    def _on_devices(self) -> Iterator[list[tuple[Lane, Copy]]]:
        """The copies of each lane."""
        for lane, fence in zip(self._schedule.lanes, self._fences, strict=True):
            yield [(lane, copy) for copy in lane.copies(fence, self._tensors, pinned=self._is_pinned(lane))]

    def _is_pinned(self, lane: Lane) -> bool:
        return self.arena.pin(lane.device.device.type)

    # -- on the waiting thread -------------------------------------------------------------------------------

    def _arrive(self, start: int, nbytes: int, event: torch.Event) -> None:
        """Wait for one copy of a device, so that the writer follows."""
        try:
            event.synchronize()
            if not self._cancelled:
                self._filling.finish(start)
        except Exception as error:
            self._break(error)
        finally:
            self._backlog.leave(nbytes)

    def _conclude(self, staged: Callable[[], None] | None) -> None:
        """Wait for what is left of all copies of devices."""
        try:
            for _, end in self._ends:
                end.synchronize()
        except Exception as error:
            self._break(error)
        if self._is_broken:
            self._drain()
        self._end(None if self._is_broken else staged)

    def _break(self, error: Exception) -> None:
        """A device has failed: that belongs on this save's handle too."""
        self._is_broken = True
        self.stop()
        self.watermark.abort(error)

    def _drain(self) -> None:
        """Return once no device writes to the arena any more, or have nobody use it again."""
        try:
            for lane in self._schedule.lanes:
                lane.device.drain()
        except Exception as error:
            self._is_lost = True
            logger.error("a device did not finish its copies (%s): the memory they go to is used no more", error)

    def _judge_later(self, torn: list[Path]) -> None:
        try:
            self._judge([*torn, *(path for comparison in self._comparisons for path in comparison.changed())])
        except Exception as error:
            self.watermark.abort(error)
        finally:
            self._judged.set()
            self._let_go()

    # -- on any of them --------------------------------------------------------------------------------------

    def _end(self, staged: Callable[[], None] | None) -> None:
        """All copies are over; `staged` is told where they are in the arena, of a save that is not given up by then."""
        is_whole = staged is not None and self.watermark.error is None
        if is_whole:
            self._tell(self)  # before the seal: nobody hears that a save is durable, and then that it is staged
        # Before the seal too: who has waited for a save finds its memory free. And before it is said that the copy is
        # over: who waits for that may let the last share go, and lease the arena at once.
        self.release()
        if is_whole and not self._verify and self._judged.is_set():
            self.watermark.seal()
        self.copied.set()
        self._let_go()
        if staged is not None and self.watermark.error is None:
            staged()

    def _let_go(self) -> None:
        """Of what was handed out for this save, once nobody reads it."""
        # Whoever is the last to hold them must have seen, by a lock, that the device was waited for.
        if self.settled:
            self._tensors, self._comparisons = {}, []

    def _judge(self, torn: list[Path]) -> None:
        if self._cancelled:
            return
        if not torn:
            self.watermark.seal()
            return
        names = sorted({".".join(path) for path in torn})
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        self.watermark.abort(
            TornSnapshot(
                f"the snapshot of step {self.step} is torn: {shown} changed while being copied. Call "
                "before_mutation() before changing saved tensors outside of a registered optimizer",
                names,
            )
        )

    @property
    def nbytes(self) -> int:
        """Bytes of state in it."""
        return self._schedule.plan.layout.bytes

    @property
    def devices(self) -> set[str]:
        """The kinds of devices that it is copied from on side streams."""
        return {lane.device.device.type for lane in self._schedule.lanes}

    @property
    def verifying(self) -> bool:
        """Whether the copied bytes are still to be compared with the live ones."""
        return self._verify

    @property
    def settled(self) -> bool:
        """Whether there is nothing left that `guard` would wait for."""
        # Not is_set(), which takes no lock: whoever is told so has seen what the thread has that waited for the device.
        return self.copied.wait(0) and not self._verify and self._judged.wait(0)

    def stop(self) -> None:
        """Copy no more than is under way: the worker is done with this snapshot."""
        self._cancelled = True
        self._backlog.open()

    def cancel(self, by_step: int) -> None:
        """Nobody will read this snapshot. Returns once its arena is not written any more."""
        self.stop()
        self.watermark.abort(SaveSuperseded(f"step {self.step} was replaced by step {by_step}"))
        self.copied.wait()

    def release(self) -> None:
        """One of the two that hold the arena (staging, worker) is done with it; the second call frees it."""
        with self._releasing:
            self._holders -= 1
            last = self._holders == 0
        if last:
            (self._lender.quarantine if self._is_lost else self._lender.release)(self.arena)


def _wait_for(events: Iterable[torch.Event]) -> None:
    for event in events:
        event.synchronize()


def _complete(lane: Lane, copy: Copy) -> None:
    copy.make()
    lane.device.mark_side().synchronize()  # a copy to memory that is not page-locked may return before it is complete
