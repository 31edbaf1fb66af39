"""E21: how a loader is brought back to its place, and what is said where it cannot be."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SequentialSampler, Subset
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler as Drawing

from asyncckpt.testing.ranks import process_class
from asyncckpt.trainer import RNGState, TrainerError
from asyncckpt.trainer.batches import NONE_LEFT, Batches

from .program import Plain, Rows, Stream

# Torchdata's, of torch 2.13, at each StatefulDataLoader.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


def kept(count: int, kind: Any = DataLoader) -> Any:
    """Shuffled, by a worker that stays for all epochs."""
    several: dict[str, Any] = {"num_workers": 1, "persistent_workers": True}
    if sys.platform == "linux":
        process_class()  # which has their server import torch before it forks
        several["multiprocessing_context"] = "forkserver"
    return kind(Plain(count), batch_size=3, shuffle=True, **several)


class Drawn(Plain):
    """Changed by generators of its own."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.transform = Noise()
        self.numbers, self.older = random.Random(3), np.random.RandomState(3)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().__getitem__(index)
        return x, self.transform(y) + self.numbers.random() + self.older.rand()


class Noise:
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        return y + torch.rand((), generator=self.generator)


class Permuted(Sampler[Any]):
    """A sampler, and a loader, that draws an order from a generator of its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.rng = np.random.Generator(np.random.MT19937(3))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        order = self.rng.permutation(self.count).tolist()
        return iter(order) if self.count > 7 else iter([(None, torch.tensor([index])) for index in order])


def rest(batches: Batches) -> list[list[float]]:
    found = []
    while (batch := batches.take()) is not NONE_LEFT:
        found.append([*batch[1].tolist(), random.random()])
    return found


def moved(make: Any, taken: int) -> tuple[list[list[float]], list[list[float]]]:
    """What is left of a second epoch, and all of the next one: gone on with, and gone back to with another loader."""
    before = Batches(make(), "train_loader")
    before.begin(0)
    rest(before)
    before.begin(1)
    assert [before.take() is NONE_LEFT for _ in range(taken)] == [False] * taken
    state, rng = before.state_dict(), RNGState.capture()
    here = rest(before)
    before.begin(2)
    here += rest(before)
    torch.manual_seed(99), random.seed(99)
    after = Batches(make(), "train_loader")
    after.place(state, 1)
    rng.restore()
    there = rest(after)
    after.begin(2)
    return here, there + rest(after)


@pytest.mark.parametrize("taken", [0, 1, 5, 7])
@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Rows(20), batch_size=3, shuffle=True),
        lambda: DataLoader(Rows(20), batch_size=3, sampler=RandomSampler(Rows(20), replacement=True)),
        lambda: DataLoader(Rows(20), batch_size=3, sampler=DistributedSampler(Rows(20), 2, 1, seed=3), num_workers=0),
        lambda: StatefulDataLoader(Rows(20), batch_size=3, sampler=Drawing(Rows(20), replacement=True)),
        lambda: StatefulDataLoader(Rows(20), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(8)),
        lambda: DataLoader(Subset(Drawn(20), range(19)), batch_size=3, sampler=Permuted(19)),
        lambda: Permuted(7),
    ],
    ids=["shuffled", "replaced", "distributed", "stateful-replaced", "stateful-generator", "own", "own-loader"],
)
def test_e21_a_loader_goes_on_where_another_was(make: Any, taken: int) -> None:
    taken = min(taken, len(make()))
    torch.manual_seed(1), random.seed(1)
    here, there = moved(make, taken)
    assert here == there
    assert len(here) == 2 * len(make()) - taken


class Indexed:
    """Gives its batches by number alone, and counts how often it was asked for the first, and for any."""

    def __init__(self) -> None:
        self.begun = self.given = 0

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        if index == 3:
            raise IndexError
        self.begun += index == 0
        self.given += 1
        return "batch", torch.tensor([index])


class Own:
    """One that can be asked for its place, and has nothing else of torch's; it draws for each batch."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        while self.at < 4:
            self.at += 1
            yield "batch", torch.tensor([self.at, random.random()])
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at = state["at"]


class Lived:
    """What a loader gives from `epoch` to the end of the second one, and what each moment of that was saved as."""

    def __init__(self, batches: Batches, epoch: int) -> None:
        self.batches, self.epoch = batches, epoch
        self.given: list[Any] = []
        self.moments: list[tuple[int, int, bool, dict[str, Any], RNGState]] = []

    def go(self, in_the_middle: bool) -> list[Any]:
        """To the end, from where an epoch begins, or from a batch of it."""
        self._note()
        while self.epoch < 2:
            if not in_the_middle:
                self.batches.begin(self.epoch)
                self._note()
            in_the_middle = False
            while (batch := self.batches.take()) is not NONE_LEFT:
                self.given.append([*batch[1].tolist(), random.random()])
                self._note()
            assert self.batches.take() is NONE_LEFT, "an epoch that is over stays so"
            self.epoch += 1
            self.given.append("the end")
            self._note()
        return self.given

    def _note(self) -> None:
        state, ended = self.batches.state_dict(), self.batches.has_ended
        self.moments.append((self.epoch, len(self.given), ended, state, RNGState.capture()))


@pytest.mark.parametrize(
    "make",
    [
        Indexed,
        Own,
        lambda: DataLoader(Rows(4), batch_size=3, shuffle=True),
        lambda: StatefulDataLoader(Rows(4), batch_size=3, shuffle=True),
        lambda: kept(4),
        lambda: kept(4, StatefulDataLoader),
    ],
    ids=["indexed", "own-stateful", "shuffled", "stateful", "persistent", "stateful-persistent"],
)
def test_e21_at_every_moment_another_process_goes_on_and_would_save_the_same(make: Any) -> None:
    torch.manual_seed(1), random.seed(1)
    twin = Lived(Batches(make(), "train_loader"), 0)
    twin.go(in_the_middle=False)
    for epoch, given, ended, state, rng in twin.moments:
        torch.manual_seed(99), random.seed(99)
        after = Batches(make(), "train_loader")
        after.place(state, epoch)
        rng.restore()
        assert after.has_ended == ended == ("taken" not in state and given > 0)
        assert after.state_dict() == state
        assert Lived(after, epoch).go(in_the_middle="taken" in state) == twin.given[given:]


def test_e21_only_what_is_asked_for_is_loaded_again() -> None:
    before = Batches(Indexed(), "train_loader")
    before.begin(0)
    moments = [before.state_dict()]
    while before.take() is not NONE_LEFT:
        moments.append(before.state_dict())
    moments.append(before.state_dict())
    asked = []
    for state in moments:
        loader = Indexed()
        Batches(loader, "train_loader").place(state, 0)
        asked.append((loader.begun, loader.given))
    assert asked == [(0, 0), (1, 1), (1, 2), (1, 3), (0, 0)]


def test_e21_a_loader_that_kept_its_workers_goes_on_without_any() -> None:
    torch.manual_seed(1)
    before, after = Batches(kept(9), "train_loader"), Batches(DataLoader(Plain(9), 3, shuffle=True), "train_loader")
    before.begin(0)
    before.take()
    after.place(before.state_dict(), 0)
    assert [batch[:3] for batch in rest(after)] == [batch[:3] for batch in rest(before)]


def test_e21_one_that_has_not_given_a_batch_yet_is_begun_anew() -> None:
    def make() -> Batches:
        return Batches(StatefulDataLoader(Stream(9), batch_size=3), "train_loader")

    before = make()
    before.begin(0)
    first = rest(before)
    before.begin(1)  # where the stream stands says the end of the epoch before, until it is asked for something
    after = make()
    after.place(before.state_dict(), 1)
    assert [batch[:3] for batch in rest(after)] == [batch[:3] for batch in first]


def test_e21_data_sets_and_samplers_are_told_the_epoch_again_where_it_goes_on() -> None:
    class Changing(Plain):
        epoch = -1

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    def make() -> tuple[Changing, Batches]:
        data = Changing(9)
        return data, Batches(DataLoader(Subset(data, range(9)), batch_size=3), "train_loader")

    (data, before), (other, after) = make(), make()
    before.begin(4)
    before.take()
    after.place(before.state_dict(), 4)
    assert (data.epoch, other.epoch) == (4, 4)


def test_e21_what_cannot_be_gone_through_is_named() -> None:
    with pytest.raises(TrainerError, match="val_loader is None"):
        Batches(cast(Any, None), "val_loader")


def test_e21_samplers_that_want_to_know_the_epoch_are_told() -> None:
    class Told(SequentialSampler):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)

    epochs: list[int] = []
    for loader in (
        DataLoader(Plain(9), batch_size=3, sampler=Told(Plain(9))),
        DataLoader(Plain(9), batch_sampler=BatchSampler(Told(Plain(9)), 3, False)),
    ):
        batches = Batches(loader, "train_loader")
        batches.begin(0)
        batches.begin(1)
        Batches(loader, "train_loader").place(batches.state_dict(), 3)
    assert epochs == [0, 1, 3] * 2


def test_e21_replaying_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    moved(lambda: DataLoader(Plain(9), batch_size=3), 2)
    assert "train_loader has no state_dict(): 2 batches are loaded again" in caplog.text
    caplog.clear()
    moved(lambda: DataLoader(Plain(9), batch_size=3), 0)
    moved(lambda: StatefulDataLoader(Plain(9), batch_size=3), 2)
    assert caplog.text == ""


def test_e21_a_loader_that_is_shorter_or_of_another_kind_is_refused() -> None:
    before = Batches(StatefulDataLoader(Plain(9), batch_size=3), "train_loader")
    before.begin(0)
    before.take()
    with pytest.raises(TrainerError, match=r"train_loader had a state_dict\(\) when it was saved"):
        Batches(DataLoader(Plain(9), batch_size=3), "train_loader").place(before.state_dict(), 0)
    longer = Batches(DataLoader(Plain(9), batch_size=3), "train_loader")
    longer.begin(0)
    longer.take(), longer.take()
    with pytest.raises(TrainerError, match="had 2 batches in this epoch before, and has 1 now"):
        Batches(DataLoader(Plain(3), batch_size=3), "train_loader").place(longer.state_dict(), 0)
    own = DataLoader(Plain(9), batch_size=3, shuffle=True, generator=torch.Generator())
    with pytest.raises(TrainerError, match="had 0 generators of its own when it was saved, and has 1 now"):
        Batches(own, "train_loader").place({**longer.state_dict(), "taken": 0}, 0)


def test_e21_workers_that_are_given_samples_ahead_of_time_are_refused_where_that_cannot_be_told() -> None:
    again = {"replacement": True}, {"num_samples": 10}
    for rows, drawn in ((Plain(9), again[0]), (Plain(9), again[1]), (Plain(1), {"num_samples": 2})):
        loader = StatefulDataLoader(rows, batch_size=3, sampler=Drawing(rows, **drawn), num_workers=1)
        with pytest.raises(TrainerError, match="use num_workers=0, or a torch DataLoader"):
            Batches(loader, "train_loader")
    alone: Any = Own()
    alone.sampler = Drawing(Plain(9), replacement=True)
    rows, several = Plain(9), {"batch_size": 3, "num_workers": 1}
    for fine in (
        StatefulDataLoader(rows, shuffle=True, **several),
        StatefulDataLoader(rows, **several),
        StatefulDataLoader(rows, sampler=DistributedSampler(rows, 2, 1), **several),
        DataLoader(rows, sampler=Drawing(rows, replacement=True), **several),
        alone,
        Own(),
    ):
        Batches(fine, "train_loader")
