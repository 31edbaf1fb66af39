"""Named: the latest and the best are found by a few requests, whatever a hint says."""

from __future__ import annotations

import math

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import CheckpointInfo
from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.format import names
from asyncckpt.format.sealed import seal
from asyncckpt.retention import Monitor
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.requests import FaultyStorage
from tests.worker.drive import Session, run, three
from tests.worker.stores import damage

LOSS: Monitor = ("loss", "min")
LOSSES = {1: 0.5, 2: 0.1, 3: math.nan, 4: 0.9}


async def trained(store: Storage) -> None:
    async with Session(store, monitor=LOSS) as session:
        for step, loss in LOSSES.items():
            await session.saved(step, {"loss": loss})


async def told(store: Storage, which: str, monitor: Monitor | None = None) -> CheckpointInfo:
    """What `which` names, which must be what reading everything says."""
    catalog = Catalog(store, monitor)
    _, found = await catalog.named(which)
    listing = await catalog.listing()
    assert repr(found) == repr(next(i for i in listing.infos() if i.seq == listing.find(which).seq)), "NaN is not NaN"
    return found


def test_latest_and_best_are_found_without_reading_every_record() -> None:
    async def act(store: MemoryStorage) -> None:
        await trained(store)
        faulty = FaultyStorage(store)
        for which, step in (("latest", 4), ("best", 2)):
            faulty.requests.clear()
            assert (await Catalog(faulty).named(which))[0].step == step
            assert faulty.requests == [
                "get run.json",
                "get latest",
                "list commits/",
                "get commits/0000000006.json",
                f"get commits/000000000{step + 1}.json",
                "list user/",
            ]
            assert (await told(store, which)).step == step

    run(act)


def test_the_judgement_of_the_reader_counts() -> None:
    async def act(store: MemoryStorage) -> None:
        await trained(store)
        assert (await told(store, "best", ("loss", "max"))).step == 4
        assert (await told(store, "latest", ("loss", "max"))).is_best
        assert not (await told(store, "latest", LOSS)).is_best
        with pytest.raises(CheckpointNotFoundError, match="no checkpoint 'best'"):
            await Catalog(store, ("score", "max")).named("best")

    run(act)


def test_it_is_told_after_a_rollback_a_removal_and_a_new_start() -> None:
    async def act(store: MemoryStorage) -> None:
        await trained(store)
        async with Session(store, keep=1, monitor=LOSS) as session:
            await session.resume()
            assert (await told(store, "latest")).step == 4
            await session.service.go_on(1, (), named=True)
            assert ((await told(store, "latest")).step, (await told(store, "best")).step) == (1, 2)
            await session.service.prune(dry_run=False)
            assert ((await told(store, "latest")).step, (await told(store, "best")).step) == (1, 2)
            await session.saved(9, {"loss": 0.01})
            assert ((await told(store, "latest")).step, (await told(store, "best")).step) == (9, 9)

    run(act)


def test_where_its_record_is_damaged_everything_is_read() -> None:
    async def act(store: MemoryStorage) -> None:
        await trained(store)
        await damage(store, names.record_key(5))
        assert (await told(store, "latest")).step == 3
        await damage(store, names.record_key(3))
        assert (await told(store, "best")).step == 1

    run(act)


def test_an_empty_root_has_neither() -> None:
    async def act(store: MemoryStorage) -> None:
        for which in ("latest", "best"):
            with pytest.raises(CheckpointNotFoundError, match="the run holds none"):
                await Catalog(store).named(which)

    run(act)


@pytest.mark.parametrize(
    "hint",
    [
        None,
        b"",
        b"nothing that could be read",
        seal({"slot": 1}),
        seal({"slot": 3}),
        seal({"slot": 6}),
        seal({"slot": 7}),
        seal({"slot": 999}),
        seal({"slot": -5}),
        seal({"slot": "6"}),
        seal({}),
    ],
)
def test_a_hint_that_lies_changes_nothing(hint: bytes | None) -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        if hint is None:
            await store.delete([names.LATEST])
        else:
            await store.put(names.LATEST, [hint])
        head = await Catalog(store).head()
        assert head is not None
        assert (head.slot, head.kind) == (5, "close")
        assert (await told(store, "latest")).step == 3

    run(act)
