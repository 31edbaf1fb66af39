"""E21: how a loader is brought back to its place, and what is said where it cannot be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SequentialSampler, Subset
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler as Drawing

from asyncckpt.trainer import RNGState, TrainerError
from asyncckpt.trainer.batches import NONE_LEFT, Batches

from .program import Plain, Rows, Stream

# Torchdata's, of torch 2.13, at each StatefulDataLoader.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


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
    loader = StatefulDataLoader(Plain(9), batch_size=3, sampler=Drawing(Plain(9), replacement=True), num_workers=1)
    with pytest.raises(TrainerError, match="use num_workers=0, or a torch DataLoader"):
        Batches(loader, "train_loader")
