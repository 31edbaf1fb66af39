"""Late metrics: a listed checkpoint of which more is known than when it was committed."""

from __future__ import annotations

import math

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import CheckpointDirectoryExistsError, CheckpointNotFoundError
from asyncckpt.events import Amended
from asyncckpt.format import names
from asyncckpt.format.sealed import unseal
from asyncckpt.retention import RetentionPolicy
from asyncckpt.storage import MemoryStorage
from tests.worker.drive import Session, checked, keys, run, steps, three

MONITOR = ("loss", "min")


def test_they_are_attached_and_the_best_is_decided_again() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, monitor=MONITOR) as session:
            for step, loss in ((1, 0.5), (2, 0.3)):
                await session.saved(step, {"loss": loss})
            await session.saved(3, {"speed": 7.0})
            await session.service.record(3, {"loss": 0.1})
            await session.service.record(2, {"accuracy": 0.9})
            (third, second) = session.log.of(Amended)
            assert (third.step, third.seq, third.metrics) == (3, 3, {"speed": 7.0, "loss": 0.1})
            assert second.metrics == {"loss": 0.3, "accuracy": 0.9}
            listing = await checked(store)
            assert [c.seq for c in listing.checkpoints] == [1, 2, 3]
            assert (await Catalog(store).named("latest"))[0].seq == 3
            assert (await Catalog(store).named("best"))[0].seq == 3
            await session.service.record(1, {"loss": 0.05})
            assert (await Catalog(store).named("best"))[0].seq == 1
            assert listing.find(2).created == 2000

    run(act)


def test_the_hint_of_the_latest_stays_where_it_is() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            for step in (1, 2, 3):
                await session.saved(step)
            await session.tidied()
            before = bytes(await store.get("latest"))
            await session.service.record(1, {"loss": 0.5})
            await session.tidied()
            assert bytes(await store.get("latest")) == before
            assert unseal(before, "latest")["seq"] == 3

    run(act)


def test_what_is_kept_follows() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, monitor=MONITOR, keep=RetentionPolicy(last=1, best=1)) as session:
            await session.saved(1, {"loss": 0.5})
            await session.saved(2)
            await session.service.record(2, {"loss": 0.1})
            await session.saved(3, {"loss": 0.9})
            assert await steps(store) == [2, 3]

    run(act)


def test_the_record_that_told_of_it_before_goes_after_the_next_commit_and_no_pack_is_written() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            slot = (await session.saved(1)).slot
            await session.tidied()
            data = await keys(store, "data/")
            await session.service.record(1, {"loss": 1.0})
            assert names.record_key(slot) in await keys(store)
            await session.saved(2)
            await session.tidied()
            assert names.record_key(slot) not in await keys(store)
            assert set(data) <= set(await keys(store, "data/"))
        await checked(store)

    run(act)


def test_the_next_writer_knows_them() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, monitor=MONITOR) as session:
            await session.saved(1)
            await session.service.record(1, {"loss": 1.0})
        async with Session(store, monitor=MONITOR) as session:
            await session.saved(2, {"loss": 2.0})
            assert (await checked(store)).best is not None
            assert (await Catalog(store).named("best"))[0].step == 1
            await session.service.record(2, {"loss": math.nan})
            assert (await Catalog(store).named("best"))[0].step == 1

    run(act)


def test_what_is_known_already_is_no_new_record() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            await session.saved(1, {"loss": 1.0})
            before = await keys(store, "commits/")
            await session.service.record(1, {"loss": 1.0})
            assert await keys(store, "commits/") == before

    run(act)


def test_a_step_that_is_not_listed_says_what_is() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            await session.saved(1)
            with pytest.raises(CheckpointNotFoundError, match=r"no checkpoint 7: steps 1 are there"):
                await session.service.record(7, {"loss": 1.0})

    run(act)


def test_a_run_that_nobody_resumed_is_left_alone() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store, resumed=False) as session:
            with pytest.raises(CheckpointDirectoryExistsError):
                await session.service.record(1, {"loss": 1.0})
        assert all(c.metrics == {} for c in (await checked(store)).checkpoints)

    run(act)
