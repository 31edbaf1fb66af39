"""Row P4: copies go over a side stream, the worker waits for its event, and so does the next change; and how much of
them is queued at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, SaveHandle
from asyncckpt.staging import backlog, pieces
from asyncckpt.staging.backlog import Backlog
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.staging.streams import StreamDevice
from asyncckpt.testing import simacc
from asyncckpt.testing.slow import PATIENCE

from .declaring import Declaring
from .trainings import DEVICE, side

CHUNK = 1 << 14


class Halfway:
    """One parameter of four chunks; the side stream stands still when the first was copied, until `go_on`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(pieces, "GROUP", CHUNK)
        patch.setattr(backlog, "MOST", CHUNK)
        self.model = nn.Linear(1, CHUNK, bias=False).to(DEVICE)  # four bytes each
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.store = Declaring("halfway")
        self.is_there = threading.Event()
        self.gates: list[simacc.Gate] = []
        self.is_watched = False
        self.events_are_waited_for = True
        arrive = Snapshot._arrive

        def arrived(snapshot: Snapshot, start: int, nbytes: int, event: torch.Event) -> None:
            if self.is_watched and not self.gates:
                event.synchronize()
                self.gates.append(simacc.hold(side()))  # before there is room for the next one
                self.is_there.set()
            arrive(snapshot, start, nbytes, event if self.events_are_waited_for else _NoEvent())

        def conclude(snapshot: Snapshot, staged: Callable[[], None] | None) -> None:
            if not self.events_are_waited_for:
                snapshot._ends = [(lane, _NoEvent()) for lane, _ in snapshot._ends]
            plain(snapshot, staged)

        plain = Snapshot._conclude
        patch.setattr(Snapshot, "_arrive", arrived)
        patch.setattr(Snapshot, "_conclude", conclude)

    def checkpointer(self) -> AsyncCheckpointer:
        return AsyncCheckpointer(self.store, model=self.model, optimizer=self.optimizer, verify="off")

    def save(self, checkpointer: AsyncCheckpointer, step: int) -> SaveHandle:
        """Begin a save, and return when a quarter of it has been copied."""
        self.is_watched = True
        handle = checkpointer.save(step)
        assert self.is_there.wait(PATIENCE)
        return handle

    def go_on(self) -> None:
        self.gates[0]()

    def step(self) -> None:
        """Every element becomes one less."""
        self.model.weight.grad = torch.ones_like(self.model.weight)
        self.optimizer.step()

    def saved(self) -> Tensor:
        found: Tensor = asyncckpt.load(self.store).state["model"]["weight"]
        return found


class _NoEvent:
    def synchronize(self) -> None:
        """At once."""


def saves_beside_a_step(halfway: Halfway, *, waits: bool) -> tuple[Tensor, Tensor]:
    """What is saved where a step is made while the copy is halfway, and what was there at the save."""
    with halfway.checkpointer() as checkpointer:
        checkpointer.save(1).wait()
        halfway.step()
        wanted = halfway.model.weight.detach().cpu()
        simacc.configure(trace=True)
        simacc.reset()
        handle = halfway.save(checkpointer, 2)
        halfway.step()
        if waits:
            assert not torch.accelerator.current_stream().query()
            assert not handle.done()
        else:
            torch.accelerator.current_stream().synchronize()
        halfway.go_on()
        handle.wait()
    torch.accelerator.synchronize()
    return halfway.saved(), wanted


def test_P4_the_copy_runs_on_a_side_stream_and_the_next_update_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found, wanted = saves_beside_a_step(Halfway(monkeypatch), waits=True)
    assert torch.equal(found, wanted)
    copies = [ran for ran in simacc.trace() if ran.kind == "d2h_pinned"]
    (update,) = (ran for ran in simacc.trace() if ran.kind == "kernel" and "add" in ran.name)
    assert {ran.stream for ran in copies} == {side().stream_id}
    assert len(copies) == 4
    assert update.stream != side().stream_id
    assert max(ran.ended for ran in copies) <= update.began


def test_P4_mutant_an_update_that_does_not_wait_tears_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamDevice, "hold", lambda self, event: None)
    found, wanted = saves_beside_a_step(Halfway(monkeypatch), waits=False)
    quarter = CHUNK // wanted.itemsize
    assert torch.equal(found[:quarter], wanted[:quarter])
    assert torch.equal(found[quarter:], wanted[quarter:] - 1)
    assert any(race.startswith("write by stream") for race in simacc.races())


def test_P4_mutant_a_worker_that_does_not_wait_for_the_event_reads_torn_data(monkeypatch: pytest.MonkeyPatch) -> None:
    halfway = Halfway(monkeypatch)
    with halfway.checkpointer() as checkpointer:
        checkpointer.save(1).wait()
        halfway.step()
        wanted = halfway.model.weight.detach().cpu()
        halfway.events_are_waited_for = False
        handle = halfway.save(checkpointer, 2)
        handle.wait()  # although three quarters were not copied
        halfway.go_on()
    quarter, found = CHUNK // wanted.itemsize, halfway.saved()
    assert torch.equal(found[:quarter], wanted[:quarter])
    assert not torch.equal(found[quarter:], wanted[quarter:])
    assert any(race.startswith("read by HOST") for race in simacc.races())


# -- how much is queued --------------------------------------------------------------------------------------


class TurnedAway(Backlog):
    """Tells when a copy has to wait."""

    told = threading.Event()

    def _has_room(self, nbytes: int) -> bool:
        found = super()._has_room(nbytes)
        if not found:
            TurnedAway.told.set()
        return found


def queue_and_step(patch: pytest.MonkeyPatch, patience: float = PATIENCE) -> None:
    patch.setattr(pieces, "GROUP", CHUNK)
    patch.setattr(backlog, "MOST", 2 * CHUNK)
    patch.setattr("asyncckpt.staging.snapshot.Backlog", TurnedAway)
    TurnedAway.told.clear()
    model, store = nn.Linear(4, CHUNK, bias=False).to(DEVICE), Declaring("queued")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="off") as checkpointer:
        checkpointer.save(1).wait()
        for step in (2, 3):
            TurnedAway.told.clear()
            wanted = model.weight.detach().cpu()
            simacc.reset()
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                snapshot = checkpointer._saver.stager._pending[-1]
                while not TurnedAway.told.wait(0.01):
                    assert not snapshot.enqueued.is_set(), "nothing had to wait"
                assert simacc.stats()["d2h_pinned_bytes"] == 2 * CHUNK
                model.weight.sum().item()  # goes over the same engine, and has only those to wait for
                model.weight.grad = torch.ones_like(model.weight)
                stepping = threading.Thread(target=optimizer.step)
                stepping.start()
                stepping.join(patience)
                assert not stepping.is_alive(), "the host waited"
                assert simacc.stats()["d2h_pinned_bytes"] == model.weight.nbytes
                assert not handle.done()
            handle.wait()
            assert torch.equal(asyncckpt.load(store).state["model"]["weight"], wanted)


def test_H32_no_more_is_queued_than_is_copied_soon_until_a_step_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    queue_and_step(monkeypatch)


def test_H32_mutant_without_a_bound_all_is_queued_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backlog, "_has_room", lambda self, nbytes: True)
    with pytest.raises(AssertionError, match="nothing had to wait"):
        queue_and_step(monkeypatch)


def test_H32_mutant_a_step_that_does_not_open_the_backlog_waits_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backlog, "open", lambda self: None)
    with pytest.raises(AssertionError, match="the host waited"):
        queue_and_step(monkeypatch, 0.5)
