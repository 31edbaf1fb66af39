"""Mutations: lines that keep copies and training apart, each broken in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from asyncckpt import SaveHandle
from asyncckpt.construction import tracked
from asyncckpt.fetching.progress import Progress
from asyncckpt.format.contents import Path
from asyncckpt.restores.unloading import PinnedRooms
from asyncckpt.saves.answering import Answering
from asyncckpt.saves.handing import WorkersPart
from asyncckpt.staging import arena, device, guards, lane, layout, origins, schedule, snapshot, streams
from asyncckpt.staging.arena import Arena, ArenaPool
from asyncckpt.staging.backlog import InOrder
from asyncckpt.staging.comparison import Comparison
from asyncckpt.staging.lane import Lane
from asyncckpt.staging.schedule import Schedule
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.staging.stager import Stager
from asyncckpt.staging.streams import StreamDevice
from asyncckpt.state import rng, stateful
from asyncckpt.testing import simacc
from asyncckpt.worker.job import SaveJob, Started
from asyncckpt.worker.ticket import Reply

Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]


# -- before the copies ---------------------------------------------------------------------------------------


def no_fence(patch: Patch) -> None:
    """Copies do not wait for what produces the tensors."""
    plain = StreamDevice.side
    patch.setattr(StreamDevice, "side", lambda self, after=None: plain(self))


def no_fence_on_the_host(patch: Patch) -> None:
    """Copies of host memory do not wait for a device that writes it."""
    patch.setattr(snapshot, "marks", lambda lanes: [])


def fence_of_the_wrong_thread(patch: Patch) -> None:
    """What the copies wait for is recorded by the staging thread, whose current stream is another."""
    plain = Lane.copies

    def copies(self: Lane, after: torch.Event, tensors: Any, **options: Any) -> Any:
        return plain(self, self.device.mark(), tensors, **options)

    patch.setattr(Lane, "copies", copies)


def buffers_are_lazy(patch: Patch) -> None:
    """What the forward pass changes is copied while it runs."""
    patch.setattr(layout.Region, "lazy", property(lambda self: not self.source.volatile))


def tables_are_lazy(patch: Patch) -> None:
    """An embedding that its forward pass renormalises is copied while that runs."""
    patch.setattr(tracked, "forward_mutated", lambda module: ())


def gathered_in_the_copiers_own_time(patch: Patch) -> None:
    """What is EAGER is gathered when the staging thread comes to it."""
    plain = Lane.copies
    patch.setattr(Lane, "capture", lambda self, tensors: self.device.mark())

    def copies(self: Lane, after: torch.Event, tensors: Any, **options: Any) -> Any:
        with self.device.side(after):
            for run in self._runs:
                run.gather({})
        return plain(self, after, tensors, **options)

    patch.setattr(Lane, "copies", copies)


def in_order_is_not_held(patch: Patch) -> None:
    """Training goes on while what is EAGER and was not gathered is copied."""
    plain = Lane.send_in_order

    def send(self: Lane, *given: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(StreamDevice, "hold", lambda self, event: None)
            return plain(self, *given, **options)

    patch.setattr(Lane, "send_in_order", send)


def eager_copies_are_queued_whole(patch: Patch) -> None:
    """What is EAGER and was not gathered is queued at once, however much it is."""
    patch.setattr(InOrder, "enter", lambda self, nbytes: None)


def eager_tensors_are_not_cut(patch: Patch) -> None:
    """What is EAGER and was not gathered is copied tensor by tensor, however big each is."""
    patch.setattr(lane, "parts", lambda region: [region])


def mps_is_trusted(patch: Patch) -> None:
    """What is copied from mps is believed to be there when an event says so."""
    patch.setattr(streams, "_UNTRUSTED", tuple(kind for kind in streams._UNTRUSTED if kind != "mps"))


def nothing_blocks(patch: Patch) -> None:
    """Copies from devices without streams are not waited for."""
    plain = device.copy_group
    patch.setattr(schedule, "copy_group", lambda to, of, **options: plain(to, of, non_blocking=True))


# -- before a change -----------------------------------------------------------------------------------------


def no_hold(patch: Patch) -> None:
    """A step does not wait for the copies."""
    patch.setattr(StreamDevice, "hold", lambda self, event: None)


def held_once(patch: Patch) -> None:
    """Only the first stream that something is to change on waits for the copies."""
    plain = Snapshot._hold

    def hold(self: Snapshot) -> None:
        plain(self)
        self._ends = []

    patch.setattr(Snapshot, "_hold", hold)


def seen_by_nobody(patch: Patch) -> None:
    """Whoever asks whether a snapshot is settled learns it past all that orders threads."""

    def settled(self: Snapshot) -> bool:
        return self.copied.is_set() and not self._verify and self._judged.is_set()

    patch.setattr(Snapshot, "settled", property(settled))


def nobody_asks(patch: Patch) -> None:
    """Optimizers and averages change what they have without asking."""
    patch.setattr(guards, "_ask_all", lambda: None)


def nothing_is_guarded(patch: Patch) -> None:
    """``before_mutation()`` does nothing, and neither do those that ask."""
    patch.setattr(Stager, "guard", lambda self: None)


# -- before a read -------------------------------------------------------------------------------------------


def compared_twice_at_once(patch: Patch) -> None:
    """A comparison has device memory for all of what it compares twice."""
    plain = Comparison._mask
    kept: list[Tensor] = []

    def mask(self: Comparison, place: Tensor, live: Tensor) -> Tensor:
        kept.append(live.clone())
        kept.append(live.clone())
        return plain(self, place, live)

    patch.setattr(Comparison, "_mask", mask)


def copied_to_the_end(patch: Patch) -> None:
    """A save that was given up is copied all the same."""

    def stop(self: Snapshot) -> None:
        self._backlog.open()

    patch.setattr(Snapshot, "stop", stop)


class _Done:
    def synchronize(self) -> None:
        """At once."""


def not_waited_for(patch: Patch) -> None:
    """The writer is told that bytes are there without anybody having waited for them."""
    arrive, conclude = Snapshot._arrive, Snapshot._conclude

    def concluded(self: Snapshot, staged: Callable[[], None] | None) -> None:
        self._ends = [(lane, _Done()) for lane, _ in self._ends]
        conclude(self, staged)

    patch.setattr(Snapshot, "_arrive", lambda self, start, nbytes, event: arrive(self, start, nbytes, _Done()))
    patch.setattr(Snapshot, "_conclude", concluded)
    close = Stager.close

    def closed(self: Stager) -> None:
        torch.accelerator.synchronize()  # or the device would write to memory that is no more
        close(self)

    patch.setattr(Stager, "close", closed)


def marked_before_the_copies(patch: Patch) -> None:
    """An event says that copies are complete which were not begun."""
    plain, arrive_at = Lane.copies, Snapshot._arrive
    early: dict[Lane, torch.Event] = {}

    def copies(self: Lane, *given: Any, **options: Any) -> Any:
        early[self] = self.device.mark_side()
        return plain(self, *given, **options)

    def arrive(self: Snapshot, start: int, nbytes: int, event: torch.Event) -> None:
        arrive_at(self, start, nbytes, early[self._schedule.lanes[0]])

    def mark_ends(self: Snapshot) -> None:
        self._ends = [(lane, early[lane]) for lane in self._schedule.lanes]

    patch.setattr(Lane, "copies", copies)
    patch.setattr(Snapshot, "_arrive", arrive)
    patch.setattr(Snapshot, "_mark_ends", mark_ends)


def failures_pass(patch: Patch) -> None:
    """A copy that has failed is taken for one that was made."""

    def arrive(self: Snapshot, start: int, nbytes: int, event: torch.Event) -> None:
        with suppress(RuntimeError):
            event.synchronize()
        self._filling.finish(start)
        self._backlog.leave(nbytes)

    patch.setattr(Snapshot, "_arrive", arrive)


def a_scaler_is_asked(patch: Patch) -> None:
    """A gradient scaler says itself what its state is, for which it waits for the device."""
    patch.setattr(stateful, "_is_plain_scaler", lambda target: False)


# -- memory --------------------------------------------------------------------------------------------------


def free_for_the_next_at_once(patch: Patch) -> None:
    """An arena goes to the next save when the first of the two that hold it lets it go."""
    plain = Snapshot.release

    def release(self: Snapshot) -> None:
        self._holders = min(self._holders, 1)
        if self._holders == 1:
            plain(self)

    patch.setattr(Snapshot, "release", release)


def free_when_the_worker_begins(patch: Patch) -> None:
    """An arena goes to the next save when the worker has begun to read it."""
    plain = Answering.hear

    def hear(self: Answering, job: SaveJob, handle: SaveHandle, arena: WorkersPart, reply: Reply) -> None:
        plain(self, job, handle, arena, reply)
        if isinstance(reply, Started):
            arena._snapshot.release()
            arena._snapshot = None

    patch.setattr(Answering, "hear", hear)


def given_up_without_a_wait(patch: Patch) -> None:
    """Whoever takes the place of a save does not wait until its copies are over."""
    plain = Snapshot.cancel

    def cancel(self: Snapshot, by_step: int) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self.copied, "wait", lambda timeout=None: True)
            plain(self, by_step)

    patch.setattr(Snapshot, "cancel", cancel)


def let_go_when_queued(patch: Patch) -> None:
    """What was handed out for a save is kept until its copies are queued, and no longer."""
    plain = Snapshot._mark_ends

    def mark_ends(self: Snapshot) -> None:
        plain(self)
        self._tensors = {}

    patch.setattr(Snapshot, "_mark_ends", mark_ends)


def memory_is_the_parameters_own(patch: Patch) -> None:
    """What is copied is kept only for as long as the live tensor keeps it."""
    patch.setattr(origins, "origin", lambda tensor: tensor)
    patch.setattr(device, "comparable_dtype", lambda tensor: tensor.dtype)


def waits_in_the_call(patch: Patch) -> None:
    """A save returns once the device has gathered what is EAGER."""
    plain = Lane.capture

    def capture(self: Lane, tensors: Mapping[Path, Tensor]) -> torch.Event:
        event = plain(self, tensors)
        event.synchronize()
        return event

    patch.setattr(Lane, "capture", capture)


def scheduled_anew(patch: Patch) -> None:
    """Copies, and the device memory that they need, are put together for each save."""
    patch.setattr(Stager, "_schedule", lambda self, plan, arena: Schedule(plan, arena))


def locked_anew(patch: Patch) -> None:
    """Each save has memory of its own."""

    def release(self: ArenaPool, arena: Arena) -> None:
        with self._changed:
            self._leased.pop(arena.id, None)
            self._changed.notify_all()

    patch.setattr(ArenaPool, "release", release)


def locks_nothing(patch: Patch) -> None:
    """Memory that is not page-locked is taken for memory that is, by a driver that lets that happen."""
    simacc.configure(pageable_async=True)

    def pin(self: Arena, kind: str) -> bool:
        self._pinned[kind] = True
        return True

    patch.setattr(Arena, "pin", pin)


def memory_of_the_process_alone(patch: Patch) -> None:
    """The other process maps memory that nobody writes to."""
    plain = arena.mapped

    def private(size: int) -> Any:
        descriptor, _ = plain(size)
        return descriptor, plain(size)[1]

    patch.setattr(arena, "mapped", private)


def rooms_are_filled_again_at_once(patch: Patch) -> None:
    """What a device still reads of a restore is written over."""

    def lend(self: PinnedRooms) -> Any:
        if not self._free:
            self._made += 1
            return self._room()
        return self._free.popleft()

    patch.setattr(PinnedRooms, "lend", lend)


def slowness_is_not_told(patch: Patch) -> None:
    """Memory of a restore that cannot be page-locked is nobody's business."""
    patch.setattr(Progress, "slower", lambda self, feature, reason: None)


def page_locking_fails_in_silence(patch: Patch) -> None:
    """An arena that cannot be page-locked is copied to by blocking copies, and nobody is told."""
    patch.setattr(Stager, "_pin", lambda self, arena, kind: arena.pin(kind))


# -- forms, streams, numbers -----------------------------------------------------------------------------------


def bits_of_a_conjugate_are_its_value(patch: Patch) -> None:
    plain = device.origin
    patch.setattr(origins, "origin", lambda tensor: tensor.detach().conj() if tensor.is_conj() else plain(tensor))


def everything_is_row_major(patch: Patch) -> None:
    for module in (layout, lane):
        patch.setattr(module, "in_file_order", lambda tensor: True)


def shared_memory_is_copied_for_each_name(patch: Patch) -> None:
    patch.setattr(layout, "_clusters", lambda extents: ([extent] for extent in extents))


def unaligned_scratch(patch: Patch) -> None:
    patch.setattr(lane, "_ALIGNMENT", 1)
    patch.setattr(lane, "_base", lambda run: run[0].offset - 1)


def a_stream_for_each_copy(patch: Patch) -> None:
    plain = StreamDevice.side

    @contextmanager
    def side(self: StreamDevice, after: torch.Event | None = None) -> Iterator[None]:
        self._side = torch.Stream(device=self.device)
        with plain(self, after):
            yield

    patch.setattr(StreamDevice, "side", side)


def the_threads_own_device(patch: Patch) -> None:
    """Memory is taken, and events are made, on the device that is current, whichever it is."""

    def stream_device(device: torch.device) -> StreamDevice:
        return plain(torch.device(device.type, torch.accelerator.current_device_index()))

    plain = schedule.stream_device
    patch.setattr(schedule, "stream_device", stream_device)


def saving_draws_random_numbers(patch: Patch) -> None:
    plain = rng.capture_rng

    def capture() -> Any:
        torch.rand(1, device="sim")
        return plain()

    patch.setattr(tracked, "capture_rng", capture)


def random_numbers_stay_as_they_are(patch: Patch) -> None:
    patch.setattr(tracked, "restore_rng", lambda state: [])
