"""Retention through a real writer: what is listed is what lies in the store, restarts or not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from itertools import pairwise

import pytest

from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.events import Listeners, Pruned
from asyncckpt.format.record import RULES, Record, Removal
from asyncckpt.format.slots import Slots
from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.storage import MemoryStorage
from asyncckpt.worker.commitlog import keeping, offline
from asyncckpt.worker.commitlog.offline import ask
from asyncckpt.worker.commitlog.writer import Writer
from tests.worker.drive import Session, checked, keys, leftovers, me, run, steps

LOSS: Monitor = ("val_loss", "min")
POLICY = RetentionPolicy(last=5, best=3, every_epochs=10)
BEST = {7: 0.1, 23: 0.2, 31: 0.3}
STAY = [7, 10, 20, 23, 30, 31, 40, 46, 47, 48, 49, 50]


@pytest.mark.parametrize("restarts", [[1, 51], [1, 8, 9, 24, 32, 45, 51]], ids=["in one go", "with restarts"])
def test_c10_the_documented_example_lists_what_lies_on_the_disk(restarts: list[int]) -> None:
    """50 epochs; the last 5, the best 3 and every tenth stay, also what an earlier process saved as the best."""

    async def act(store: MemoryStorage) -> None:
        for first, end in pairwise(restarts):
            async with Session(store, keep=POLICY, monitor=LOSS) as session:
                await session.resume()
                for epoch in range(first, end):
                    await session.saved(epoch, {"val_loss": BEST.get(epoch, 1.0)}, epoch)
        assert await steps(store) == STAY
        assert [c.step for c in (await checked(store)).checkpoints] == STAY
        assert await leftovers(store) == []

    run(act)


def test_p9_a_last_save_by_hand_without_metrics_does_not_cost_the_best_checkpoint() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=RetentionPolicy(last=2), monitor=LOSS) as session:
            for step, loss in ((1, 0.9), (2, 0.5), (3, 0.1)):
                await session.saved(step, {"val_loss": loss})
            await session.saved(3)
        listing = await checked(store)
        assert [c.seq for c in listing.checkpoints] == [3, 4]
        assert listing.find("best").seq == 3
        assert listing.find(3).seq == 4, "a step still names the newest of it"

    run(act)


# -- many at once ----------------------------------------------------------------------------------------------


async def many(store: MemoryStorage) -> None:
    """A finished run with the steps 1 to 9."""
    async with Session(store) as session:
        for step in range(1, 10):
            await session.saved(step)


def test_where_many_are_to_go_a_record_names_some_of_them_and_the_next_ones_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(store: MemoryStorage) -> None:
        await many(store)
        async with Session(store, keep=1) as session:
            await session.resume()
            gone = [[r.seq for r in (await session.saved(step)).removed] for step in (9, 10, 11, 12)]
            assert gone == [[1, 2, 3, 9], [4, 5, 6], [7, 8, 10], [11, 12]], "what is replaced does not wait"
        assert await steps(store) == [12]
        assert await leftovers(store) == []

    monkeypatch.setattr(keeping, "MOST", 3)
    run(act)


def test_a_request_for_many_stays_until_all_of_them_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(store: MemoryStorage) -> None:
        await many(store)
        await ask(store, range(1, 6), "me", SYSTEM_CLOCK)
        async with Session(store) as session:
            await session.resume()
            await session.saved(10)
            await session.tidied()
            assert (len(await keys(store, "user/")), await steps(store)) == (1, [4, 5, 6, 7, 8, 9, 10])
            await session.saved(11)
            await session.tidied()
            assert (await keys(store, "user/"), await steps(store)) == ([], [6, 7, 8, 9, 10, 11])

    monkeypatch.setattr(keeping, "MOST", 3)
    run(act)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_prune_of_many_takes_several_records_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    async def act(store: MemoryStorage) -> None:
        await many(store)
        await ask(store, [1], "me", SYSTEM_CLOCK)
        removals: list[int] = []
        real = Writer.drop

        async def drop(writer: Writer, removed: Collection[Removal], acknowledged: Collection[int] = ()) -> None:
            removals.append(len(removed))
            assert bool(await keys(store, "user/")), "answered before all is gone"
            await real(writer, removed, acknowledged)

        monkeypatch.setattr(Writer, "drop", drop)
        if by_hand:
            await offline.drop(store, dict.fromkeys(range(1, 9), "x"), Listeners(()), SYSTEM_CLOCK)
        else:
            async with Session(store, keep=1) as session:
                await session.service.prune(dry_run=False)
                assert [event.seq for event in session.log.of(Pruned)] == [*range(1, 9)]
        assert removals == [3, 3, 2]
        assert (await steps(store), await keys(store, "user/")) == ([9], [])
        assert await leftovers(store) == []

    monkeypatch.setattr(keeping, "MOST", 3)
    run(act)


def test_what_a_new_training_overwrites_goes_at_once_however_much_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(store: MemoryStorage) -> None:
        await many(store)
        async with Session(store, resumed=False, overwrite=True) as session:
            await session.saved(1)
            assert await steps(store) == [1]

    monkeypatch.setattr(keeping, "MOST", 3)
    run(act)


def test_a_record_that_names_as_many_removals_as_one_may_is_still_small() -> None:
    reason = f"no rule keeps it: {RetentionPolicy(**{rule.name: 10_000 for rule in fields(RetentionPolicy)})}"
    removed = tuple(Removal(10_000_000 + n, 100_000_000 + n, reason, max(RULES, key=len)) for n in range(keeping.MOST))
    record = Record("prune", 1, 1, me(), None, Slots(), None, 1, 1, removed=removed)
    assert len(record.encode()) < 65_536
