"""Restores from stores that are no local disk: each byte comes once, into its place, when it is its turn."""

from __future__ import annotations

import itertools

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import nn

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import CheckpointCorruptError, IncompatibleState
from asyncckpt.events import Damaged, Event, Restored, Restoring
from asyncckpt.fetching import arriving, progress
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Buffer

from .conftest import Make
from .scraping import scrape, value
from .trainings import Recorder

WIDE = 600


class Ranges(MemoryStorage):
    """Remembers what of the packs was asked for."""

    def __init__(self) -> None:
        super().__init__("late")
        self.asked: list[tuple[str, int, int]] = []

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        if into is not None:
            self.asked.append((key, start, start + len(into)))
        return await super().get(key, start=start, length=length, into=into)

    @property
    def bytes(self) -> int:
        return sum(end - start for _, start, end in self.asked)


def network(value: float) -> nn.Sequential:
    """Big tensors and small ones in turns."""
    model = nn.Sequential(*(nn.Linear(WIDE, WIDE) for _ in range(3)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number + 1)
    optimizer.step()
    optimizer.zero_grad()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.5)


@pytest.fixture
def ranges() -> Ranges:
    """A store with the checkpoints of two steps."""
    store, model = Ranges(), network(1)
    optimizer = adam(model)
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, executor="thread") as ckpt:
        for number in (1, 2):
            step(model, optimizer)
            ckpt.save(number).wait()
    store.asked.clear()
    return store


def equal(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> bool:
    """Whether both are what they were after so many steps."""
    wanted = network(1)
    reference = adam(wanted)
    for _ in range(steps):
        step(wanted, reference)
    moments = zip(optimizer.state_dict()["state"].values(), reference.state_dict()["state"].values(), strict=True)
    return all(map(torch.equal, model.parameters(), wanted.parameters())) and all(
        torch.equal(ours[name], theirs[name]) for ours, theirs in moments for name in theirs
    )


def once(store: Ranges) -> bool:
    ordered = sorted(store.asked)
    return all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(ordered))


def test_a_resume_fetches_each_byte_once_and_leaves_tensors_where_they_are(make: Make, ranges: Ranges) -> None:
    model = network(-1)
    optimizer = adam(model)
    memory = [parameter.data_ptr() for parameter in model.parameters()]
    state = make(ranges, model=model, optimizer=optimizer).resume()
    assert state is not None
    assert state.step == 2
    assert equal(model, optimizer, 2)
    assert [parameter.data_ptr() for parameter in model.parameters()] == memory
    assert once(ranges)
    size = sum(p.nbytes for p in model.parameters())
    assert 3 * size <= ranges.bytes <= 3 * size + 10_000
    assert len(ranges.asked) <= 1 + 2 + 3 * size // arriving.PIECE


def test_only_the_parts_asked_for_are_fetched(make: Make, ranges: Ranges) -> None:
    model = network(-1)
    optimizer = adam(model)
    ckpt = make(ranges, model=model, optimizer=optimizer)
    ckpt.restore(only=("model",))
    size = sum(p.nbytes for p in model.parameters())
    assert size <= ranges.bytes < size + 1000
    assert once(ranges)
    assert len(ranges.asked) == 1
    assert not optimizer.state
    ranges.asked.clear()
    assert set(asyncckpt.load(ranges, only=("model",)).state) == {"model"}
    assert size <= ranges.bytes < size + 1000


def test_what_is_resumed_takes_a_few_rooms_beside_itself(
    make: Make, ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "PIECE", 64 << 10)
    made: list[int] = []
    room = arriving.room
    monkeypatch.setattr(arriving, "room", lambda size: made.append(size) or room(size))
    fresh: list[object] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: fresh.append(a[0]) or empty(*a, **k))
    model = network(-1)
    optimizer = adam(model)
    make(ranges, model=model, optimizer=optimizer).resume()
    assert equal(model, optimizer, 2)
    assert len(made) <= arriving.IN_FLIGHT
    # What becomes the optimizer's own, and the random state of the process.
    assert (
        sum(size for size in fresh if isinstance(size, int)) <= 2 * sum(p.nbytes for p in model.parameters()) + 20_000
    )


def test_what_does_not_fit_is_refused_before_a_byte_comes(make: Make, ranges: Ranges) -> None:
    model = nn.Sequential(*(nn.Linear(WIDE, WIDE) for _ in range(2)), nn.Linear(WIDE, 7))
    optimizer = adam(model)
    before = [parameter.clone() for parameter in model.parameters()]
    ckpt = make(ranges, model=model, optimizer=optimizer)
    with pytest.raises(IncompatibleState, match=r"2\.weight has shape"):
        ckpt.resume()
    assert all(map(torch.equal, before, model.parameters()))
    assert ranges.bytes == 0


def flip(store: Ranges, number: int) -> None:
    key = next(key for key in store._objects if f"-step-{number}-" in key and key.endswith(".safetensors"))
    data = bytearray(store._objects[key])
    data[-1] ^= 1
    store._objects[key] = bytes(data)


def test_a_resume_replaces_all_that_a_damaged_checkpoint_has_changed(
    make: Make, ranges: Ranges, recorder: Recorder
) -> None:
    flip(ranges, 2)
    model = network(-1)
    optimizer = adam(model)
    ckpt = make(ranges, model=model, optimizer=optimizer)
    state = ckpt.resume()
    assert state is not None
    assert state.step == 1
    assert equal(model, optimizer, 1)
    assert [(event.step, event.kind) for event in recorder.of(Damaged)] == [(2, "content")]
    ckpt.save(3).wait()


def test_a_restore_of_what_is_damaged_changes_nothing(make: Make, ranges: Ranges) -> None:
    flip(ranges, 2)
    model = network(-1)
    with pytest.raises(CheckpointCorruptError, match="does not match its digest"):
        make(ranges, model=model, optimizer=adam(model)).restore(2)
    assert all(parameter.eq(-1).all() for parameter in model.parameters())


@pytest.mark.parametrize("call", ["resume", "restore"])
def test_a_long_restore_says_how_far_it_is(
    make: Make,
    ranges: Ranges,
    recorder: Recorder,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    monkeypatch.setattr(arriving, "PIECE", 1 << 20)
    caplog.set_level("INFO", "asyncckpt")
    model = network(-1)
    seen: list[float] = []

    class Watching:
        def on_event(self, event: Event) -> None:
            if isinstance(event, Restored):
                seen.append(value(scrape(registry), "asyncckpt_restore_progress_ratio"))

    ckpt = make(ranges, model=model, optimizer=adam(model), listeners=[recorder, Watching()])
    getattr(ckpt, call)()
    told = recorder.of(Restoring)
    assert len(told) > 10
    assert [event.done for event in told] == sorted(event.done for event in told)
    assert told[-1].done == told[-1].total > 3 * sum(p.nbytes for p in model.parameters())
    assert {event.step for event in told} == {2}
    assert seen == [1]
    assert "restoring step 2: " in caplog.text


class Ticking:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_it_says_so_every_few_seconds_and_no_more_often(recorder: Recorder) -> None:
    clock = Ticking()
    counted = progress.Progress(7, asyncckpt.events.Listeners([recorder]), clock)
    counted.expect(100)
    for seconds in (0, 1, 4, 1, 3.5, 0.5):
        clock.now += seconds
        counted.add(10)
    assert recorder.of(Restoring) == [Restoring(7, 30, 100, 5.0), Restoring(7, 60, 100, 10.0)]
