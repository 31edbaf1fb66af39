"""Ranks of one machine share its memory: each takes its part of every limit, and together no more than there is."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from asyncckpt import AsyncCheckpointer, allowance
from asyncckpt.allowance import Allowance
from asyncckpt.errors import SaveFailed
from asyncckpt.events import Event, Fallback, Shortage
from asyncckpt.staging.arena import SHARE
from asyncckpt.worker.ranks import SingleRank, memory_key
from asyncckpt.worker.sharing import Sharing, here

from .executors import Launcher

# -- which part --------------------------------------------------------------------------------------------


class Room(SingleRank):
    """One of several ranks, which hear each other at once."""

    def __init__(self, rank: int, said: Sequence[dict[str, Any]]) -> None:
        self.rank, self.world, self._said = rank, len(said), said
        self.is_cut_off = False

    def tell(self, key: str, value: dict[str, Any]) -> None:
        self._said[self.rank][key] = value

    def peek(self, key: str) -> dict[str, Any] | None:
        if self.is_cut_off:
            raise ConnectionError("gone")
        return self._said[int(key.rpartition("/")[2])].get(key)


def room(world: int) -> list[Room]:
    said: list[dict[str, Any]] = [{} for _ in range(world)]
    return [Room(rank, said) for rank in range(world)]


def limited(patch: pytest.MonkeyPatch, *limits: Allowance) -> None:
    """From now on these hold for whoever asks."""
    patch.setattr(allowance, "limits", lambda: list(limits))


MACHINE = Allowance(1000, "the machine", "boot")


@pytest.fixture(autouse=True)
def _nobody_says_who_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_ranks_that_stage_as_much_share_alike_whoever_looks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, MACHINE)
    first, second = [Sharing(ranks, 100) for ranks in room(2)]
    assert first.memory(100, 0) == Allowance(500, "the machine", part=0.5, ranks=2)
    limited(monkeypatch, Allowance(600, "the machine", "boot"))  # the first has taken its own
    assert second.memory(100, 0) == Allowance(500, "the machine", part=0.5, ranks=2)


def test_who_stages_nearly_everything_has_nearly_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rank 0 does where training is data-parallel."""
    limited(monkeypatch, Allowance(64_000, "the machine", "boot"))
    lead, *others = [Sharing(ranks, 10_000 if ranks.rank == 0 else 0) for ranks in room(4)]
    found = [sharing.memory(need, 0) for sharing, need in ((lead, 10_000), *((other, 10) for other in others))]
    assert all(part is not None for part in found)
    free = [part.free for part in found if part is not None]
    assert free[0] >= 63_000
    assert min(free[1:]) >= 250  # far more than they need
    assert sum(free) * SHARE <= 64_000


def test_a_limit_is_divided_by_those_for_whom_it_holds_and_the_narrowest_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two, three = room(3)
    limited(monkeypatch, Allowance(300, "the cgroup /", "boot/7"), MACHINE)
    alone = Sharing(one, 100)
    limited(monkeypatch, Allowance(900, "the cgroup /", "boot/8"), MACHINE)
    Sharing(two, 100)
    limited(monkeypatch, Allowance(1, "the machine", "another"))
    Sharing(three, 100)
    limited(monkeypatch, Allowance(300, "the cgroup /", "boot/7"), MACHINE)
    assert alone.memory(100, 0) == Allowance(300, "the cgroup /")
    limited(monkeypatch, Allowance(900, "the cgroup /", "boot/7"), MACHINE)
    assert alone.memory(100, 0) == Allowance(500, "the machine", part=0.5, ranks=2)


def test_what_is_held_already_is_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, MACHINE)
    first, _ = [Sharing(ranks, 100) for ranks in room(2)]
    assert first.memory(100, 200) == Allowance(600, "the machine", part=0.5, ranks=2)
    monkeypatch.setattr(allowance, "memory", lambda: MACHINE)
    assert Sharing(SingleRank(), 100).memory(100, 200) == Allowance(1200, "the machine")


def test_what_was_free_for_a_state_that_has_grown_since_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, MACHINE)
    first, second = [Sharing(ranks, 100) for ranks in room(2)]
    first.memory(100, 0)
    second.memory(100, 0)
    limited(monkeypatch, Allowance(400, "the machine", "boot"))  # their optimizers have taken the rest
    assert first.memory(300, 0) == Allowance(300, "the machine", part=0.75, ranks=2)
    assert second.memory(300, 0) == Allowance(200, "the machine", part=0.5, ranks=2)


def test_who_has_not_spoken_or_cannot_be_heard_is_taken_to_need_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, MACHINE)
    ranks, *_ = room(4)
    sharing = Sharing(ranks, 100)
    assert sharing.memory(100, 0) == Allowance(250, "the machine", part=0.25, ranks=4)
    ranks.is_cut_off = True
    assert sharing.memory(100, 0) == Allowance(250, "the machine", part=0.25, ranks=4)


def test_who_measures_more_than_was_estimated_leaves_the_others_less_as_soon_as_they_look_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limited(monkeypatch, Allowance(64_000, "the machine", "boot"))
    first, second = [Sharing(ranks, estimate) for ranks, estimate in zip(room(2), (100, 0), strict=True)]
    found = first.memory(100, 0)
    assert found is not None
    assert found.free > 63_000
    assert first.again() is None  # nothing is known yet
    limited(monkeypatch, Allowance(1000, "the machine", "boot"))  # the first has taken its own
    assert second.memory(300, 0) == Allowance(48_000, "the machine", part=0.75, ranks=2)
    assert first.again() == Allowance(16_000, "the machine", part=0.25, ranks=2)
    assert first.again() is None  # that is all there is to know


def test_who_never_measures_is_asked_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, MACHINE)
    ranks, other = room(2)
    sharing, asked = Sharing(ranks, 100), list[str]()
    Sharing(other, 0)
    sharing.memory(100, 0)
    monkeypatch.setattr(ranks, "peek", lambda key: asked.append(key) or Room.peek(ranks, key))
    for _ in range(100):
        sharing.again()
    assert len(asked) == 8


def test_a_system_that_knows_no_limit_sets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch)
    assert Sharing(room(2)[0], 100).memory(100, 0) is None


def test_a_shortage_says_for_how_many_and_by_how_much_the_limit_is_to_be_raised() -> None:
    part = Allowance(250, "the machine", part=0.25, ranks=4)
    assert part.left == "the machine has 250 left for this rank, one of 4 that share it"
    assert part.short_of(300) == 200


@pytest.mark.parametrize(
    ("rank", "said", "found"),
    [
        (5, {}, range(8)),
        (5, {"RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, range(4, 8)),
        (5, {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, range(4, 8)),
        (5, {"RANK": "13", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, range(8)),  # ranks of another group
        (0, {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, range(8)),
        (5, {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "16"}, range(8)),
        (5, {"LOCAL_RANK": "one", "LOCAL_WORLD_SIZE": "4"}, range(8)),
        (5, {"LOCAL_RANK": "1"}, range(8)),
    ],
)
def test_the_launcher_says_which_ranks_are_here_or_all_may_be(rank: int, said: dict[str, str], found: range) -> None:
    assert here(rank, 8, said) == found


# -- two ranks of one machine ------------------------------------------------------------------------------


class _Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)


NUMBERS = 1 << 20
SIZE = 4 * NUMBERS


def _admitted(root: str, free: int, local_world: str | None) -> tuple[int, list[str], list[str]]:
    """Both ranks save as much; the second looks after the first has taken its part. What each holds, and is told."""
    os.environ.pop("LOCAL_WORLD_SIZE", None)
    if local_world is not None:
        os.environ["LOCAL_WORLD_SIZE"] = local_world
    taken = torch.zeros(1, dtype=torch.int64)
    allowance.limits = lambda: [Allowance(free - int(taken.item()), "the machine", "boot")]
    average = torch.nn.ParameterList([torch.zeros(NUMBERS)])
    told = _Told()
    model = torch.nn.Linear(1, 1)
    with AsyncCheckpointer(Path(root), model=model, extra={"average": average}, listeners=[told]) as checkpointer:
        pool = checkpointer._saver._arenas
        while checkpointer._returning._ranks.peek(memory_key(1 - dist.get_rank())) is None:
            time.sleep(0.001)
        dist.barrier()
        if dist.get_rank() == 0:
            checkpointer._saver.prepare()
            taken[0] = pool.memory().free
        dist.broadcast(taken, 0)
        if dist.get_rank() == 1:
            checkpointer._saver.prepare()
        else:
            taken[0] = 0
        dist.barrier()
        held = pool.memory()
        checkpointer.save(1)
        checkpointer.wait()
    fallbacks = [event.reason for event in told.events if isinstance(event, Fallback)]
    shortages = [event.sentence for event in told.events if isinstance(event, Shortage)]
    return held.free + held.used, fallbacks, shortages


@pytest.mark.ranks
@pytest.mark.parametrize("local_world", ["2", None])
def test_two_ranks_of_one_machine_are_admitted_together_and_hold_no_more_than_it_has(
    tmp_path: Path, launch: Launcher, local_world: str | None
) -> None:
    free = int(3.5 * SIZE)
    found = launch(_admitted, 2, str(tmp_path), free, local_world)
    held = [nbytes for nbytes, _, _ in found]
    assert all(SIZE < nbytes < 1.1 * SIZE for nbytes in held)  # one generation each, where one of them would take three
    assert sum(held) <= SHARE * free
    for _, fallbacks, shortages in found:
        (reason,) = fallbacks
        assert "generations of" in reason
        assert "left for this rank, one of 2 that share it" in reason
        assert shortages == []


class Opaque:
    """Nobody knows what it hands out before it does."""

    def state_dict(self) -> dict[str, Any]:
        return {"table": torch.zeros(NUMBERS)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError


def _surprised(root: str, free: int) -> tuple[int, list[str], list[str]]:
    """The second rank's state is of a size that nobody knew when the first took its part."""
    allowance.limits = lambda: [Allowance(free, "the machine", "boot")]
    told, rank = _Told(), dist.get_rank()
    average = torch.nn.ParameterList([torch.zeros(NUMBERS)]) if rank == 0 else Opaque()
    options = {"model": torch.nn.Linear(1, 1), "extra": {"average": average}, "listeners": [told]}
    with AsyncCheckpointer(Path(root), **options) as checkpointer:
        dist.barrier()
        for first in (0, 1):
            if rank == first:
                checkpointer._saver.prepare()
            dist.barrier()
        checkpointer.save(1)
        with suppress(SaveFailed):  # there is no memory for it
            checkpointer.wait()
        dist.barrier()
        held = checkpointer._saver._arenas.memory()
    fallbacks = [event.reason for event in told.events if isinstance(event, Fallback)]
    shortages = [event.sentence for event in told.events if isinstance(event, Shortage)]
    return held.free + held.used, fallbacks, shortages


@pytest.mark.ranks
def test_a_state_whose_size_nobody_knew_is_admitted_once_it_is_known_and_every_rank_is_told_what_is_short(
    tmp_path: Path, launch: Launcher
) -> None:
    (_, _, first), (_, _, second) = launch(_surprised, 2, str(tmp_path), int(1.5 * SIZE))
    for sentences in (first, second):
        (sentence,) = sentences
        assert "bytes of host memory, and the machine has" in sentence
        assert "left for this rank, one of 2 that share it: raise its limit by" in sentence


@pytest.mark.ranks
def test_ranks_that_look_again_hold_together_no_more_than_there_is(tmp_path: Path, launch: Launcher) -> None:
    free = int(3.2 * SIZE)
    found = launch(_surprised, 2, str(tmp_path), free)
    held = [nbytes for nbytes, _, _ in found]
    assert all(SIZE < nbytes < 1.1 * SIZE for nbytes in held)
    assert sum(held) <= SHARE * free
    assert all(shortages == [] for _, _, shortages in found)
