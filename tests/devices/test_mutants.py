"""Each line that keeps copies and training apart, taken away: the detector names a race, or the bytes are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from asyncckpt.errors import AsyncCkptError
from asyncckpt.staging import lane, layout, snapshot, streams
from asyncckpt.staging.lane import Lane
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.staging.streams import StreamDevice
from asyncckpt.testing import simacc

from .trainings import Training, differing, side

Patch = pytest.MonkeyPatch


def no_fence(patch: Patch) -> None:
    """Copies do not wait for what produces the tensors."""
    plain = StreamDevice.side
    patch.setattr(StreamDevice, "side", lambda self, after=None: plain(self))


def no_hold(patch: Patch) -> None:
    """A step does not wait for the copies."""
    patch.setattr(StreamDevice, "hold", lambda self, event: None)


def buffers_are_lazy(patch: Patch) -> None:
    """What the forward pass changes is copied while it runs."""
    patch.setattr(layout.Region, "lazy", property(lambda self: not self.source.volatile))


def marked_before_the_copies(patch: Patch) -> None:
    """An event says that copies are complete which were not begun."""
    plain, early = Lane.copies, {}

    def copies(self: Lane, *given: Any, **options: Any) -> Any:
        early[self] = self.device.mark_side()
        return plain(self, *given, **options)

    def arrive(self: Snapshot, start: int, nbytes: int, event: torch.Event) -> None:
        arrive_at(self, start, nbytes, early[self._schedule.lanes[0]])

    def mark_ends(self: Snapshot) -> None:
        self._ends = [(lane, early[lane]) for lane in self._schedule.lanes]

    arrive_at = Snapshot._arrive
    patch.setattr(Lane, "copies", copies)
    patch.setattr(Snapshot, "_arrive", arrive)
    patch.setattr(Snapshot, "_mark_ends", mark_ends)


def not_waited_for(patch: Patch) -> None:
    """The writer is told that bytes are there without anybody having waited for them."""
    arrive, conclude = Snapshot._arrive, Snapshot._conclude
    patch.setattr(Snapshot, "_arrive", lambda self, start, nbytes, event: arrive(self, start, nbytes, _Done()))

    def concluded(self: Snapshot, staged: Callable[[], None] | None) -> None:
        self._ends = [(lane, _Done()) for lane, _ in self._ends]
        conclude(self, staged)

    patch.setattr(Snapshot, "_conclude", concluded)


class _Done:
    def synchronize(self) -> None:
        pass


def fence_of_the_wrong_thread(patch: Patch) -> None:
    """What the copies wait for is recorded by the staging thread, whose current stream is another."""
    plain = Lane.copies
    patch.setattr(
        Lane, "copies", lambda self, after, *given, **options: plain(self, self.device.mark(), *given, **options)
    )


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


MUTANTS = (
    no_fence,
    no_hold,
    buffers_are_lazy,
    marked_before_the_copies,
    not_waited_for,
    fence_of_the_wrong_thread,
    gathered_in_the_copiers_own_time,
)


def trouble(training: Training) -> list[str]:
    """What is found wrong with saves beside a training on a stream of its own: races, and tensors of another step."""
    found: list[str] = []
    stream = torch.Stream(device=training.device)
    stream.wait_stream(torch.accelerator.current_stream())
    with stream, training.checkpointer(verify="off") as checkpointer:
        for step in range(1, 5):
            training.step()
            clones = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}  # in their turn
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                training.forward_backward()
                training.optimizer.step()
            wanted = {name: tensor.cpu() for name, tensor in clones.items()}
            try:
                handle.wait()
                saved = training.saved()
            except AsyncCkptError as error:  # digested and written at different times
                found.append(str(error))
            else:
                found += differing({name: saved[f".model.{name}"] for name in wanted}, wanted)
    torch.accelerator.synchronize()
    return found + simacc.races()


def test_without_a_mutant_nothing_is_found() -> None:
    assert trouble(Training(torch.optim.SGD, momentum=0.9)) == []


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_each_line_that_is_left_out_is_found(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    training = Training(torch.optim.SGD, momentum=0.9)
    mutate(monkeypatch)
    simacc.configure(kernel_latency=0.0005)
    assert trouble(training) != []


def test_the_mutated_modules_are_the_ones_that_save() -> None:
    assert lane.Lane is Lane
    assert snapshot.Snapshot is Snapshot
    assert streams.StreamDevice is StreamDevice
