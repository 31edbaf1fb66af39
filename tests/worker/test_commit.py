"""Committing: when a record counts, when its writer is fenced, and what an answer that got lost means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import (
    Fenced,
    OutcomeUnknown,
    StorageDenied,
    StorageError,
    TransientError,
)
from asyncckpt.events import Durable, Failed, Pruned
from asyncckpt.format import names
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.requests import FaultyStorage
from asyncckpt.testing.slow import GatedStorage, Request
from asyncckpt.worker.commitlog import commit as committing
from asyncckpt.worker.commitlog.commit import ATTEMPTS, create
from asyncckpt.worker.job import Committed, Rejected
from tests.worker.drive import Session, checked, keys, opened, run, steps, three
from tests.worker.stores import Giving, Reacting

KEY = "commits/0000000007.json"


# -- 6, 13: order ----------------------------------------------------------------------------------------------


def test_rule_6_saves_are_committed_in_their_order_and_one_waits_for_the_other() -> None:
    async def act(store: MemoryStorage) -> None:
        faulty = FaultyStorage(store)
        async with Session(faulty) as session:
            await session.resume()
            await session.tidied()
            pause = faulty.pause(len(faulty.requests) + 1)
            saves = [asyncio.ensure_future(session.saved(step)) for step in (5, 3, 4)]
            await pause.reached(saves[0])
            assert faulty.requests[-1].endswith("manifest.json")
            before = len(faulty.requests)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(faulty.requests) == before
            pause.release()
            records = await asyncio.gather(*saves)
        assert [r.slot for r in records] == [2, 3, 4]
        assert [r.checkpoint.seq for r in records if r.checkpoint] == [1, 2, 3]
        assert await steps(store) == [5, 3, 4]

    run(act)


def test_rule_13_packs_then_the_manifest_then_the_record() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated) as session:
            await session.resume()
            await session.tidied()
            gated.calls.clear()
            await session.saved(1)
        names_ = [key.rsplit("/")[-1] for request, key in gated.calls if request in ("put", "reply")]
        pack, manifest, record = "rank-00000-of-00001.p0.safetensors", "manifest.json", "0000000002.json"
        assert names_[:6] == [pack, pack, manifest, manifest, record, record]

    run(act)


@pytest.mark.parametrize("what", ["*.safetensors", "*/manifest.json", "commits/*"])
def test_rule_13_a_failure_before_the_record_leaves_nothing(what: str) -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        gated = GatedStorage(store)
        async with Session(gated) as session:
            await session.resume()
            await session.tidied()
            before = await keys(store)
            gated.fail("put", what, StorageDenied, times=1)
            assert isinstance(await session.refused(4), StorageDenied)
            assert await keys(store) == before
            assert await steps(store) == [1, 2, 3]
            record = await session.saved(5)
            assert record.checkpoint is not None
            assert record.checkpoint.seq == 5

    run(act)


# -- 14: exclusive, and lost answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OutcomeUnknown, TransientError])
@pytest.mark.parametrize("request_", ["put", "reply"])
def test_rule_14_an_unknown_outcome_is_settled_by_reading(error: Callable[[], StorageError], request_: Request) -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        gated.fail(request_, KEY, error, times=1)
        assert await create(gated, KEY, b"mine")
        assert (gated.count("put"), gated.count("get")) == ((2, 1) if request_ == "put" else (1, 1))
        assert await store.get(KEY) == b"mine"

    run(act)


def test_rule_14_exists_with_own_bytes_is_success() -> None:
    async def act(store: MemoryStorage) -> None:
        await store.put(KEY, [b"mine"])
        assert await create(store, KEY, b"mine")

    run(act)


@pytest.mark.parametrize("error", [OutcomeUnknown, TransientError])
def test_rule_14_exists_with_other_bytes_is_none_of_ours(error: Callable[[], StorageError]) -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        await store.put(KEY, [b"others"])
        assert not await create(gated, KEY, b"mine")
        gated.fail("put", KEY, error, times=1)
        assert not await create(gated, KEY, b"mine")
        assert await store.get(KEY) == b"others"

    run(act)


def test_rule_14_what_cannot_be_settled_stays_unknown() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        gated.fail("put", KEY, OutcomeUnknown)
        with pytest.raises(OutcomeUnknown, match="could not find out"):
            await create(gated, KEY, b"mine")
        assert gated.calls == [("put", KEY), ("get", KEY)] * ATTEMPTS

    run(act)


def test_rule_14_a_refusal_is_no_unknown_outcome() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        gated.fail("put", KEY, StorageDenied)
        with pytest.raises(StorageDenied):
            await create(gated, KEY, b"mine")
        assert gated.calls == [("put", KEY)]

    run(act)


def test_rule_14_a_refusal_after_an_unknown_outcome_proves_nothing() -> None:
    async def act(store: MemoryStorage) -> None:
        faulty = FaultyStorage(store)
        faulty.lose_reply(0)
        faulty.refuse(1)
        faulty.refuse(2, StorageDenied)
        assert await create(faulty, KEY, b"mine")
        assert faulty.requests == [f"create {KEY}", f"get {KEY}"] * 2

    run(act)


def test_rule_14_who_finds_its_slot_taken_is_fenced_and_never_tries_the_next() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        mine, other = Session(store), Session(store)
        await mine.resume()
        listing = await other.resume()
        reason = await mine.refused(10)
        assert isinstance(reason, Fenced)
        assert "incarnation 3 (process " in str(reason)
        assert not reason.adopted
        assert (await Catalog(store).listing()).head == listing.head
        await mine.close()
        await other.close()

    run(act)


# -- 15: the look after the record -----------------------------------------------------------------------------


def taking_over(keep: int | None, *saves: int) -> Callable[[Storage], Any]:
    """Another writer opens and saves, once."""
    done: list[int] = []

    async def react(inner: Storage) -> None:
        if not done:
            done.append(1)
            async with Session(inner, keep=keep) as other:
                await other.resume()
                for step in saves:
                    await other.saved(step)

    return react


def test_rule_15_a_record_that_the_new_owner_lists_is_durable_and_its_writer_stops() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        faulty = Reacting(store, "create commits/0000000008", taking_over(None))
        async with Session(faulty, keep=2) as session:
            await session.resume()
            await session.saved(9)
            await session.tidied()
            before = len(faulty.requests)
            answer = await session.save(10)
            assert isinstance(answer, Committed)
            assert answer.record.checkpoint is not None
            assert (answer.record.slot, answer.record.checkpoint.step) == (8, 10)
            assert [e.step for e in session.log.of(Durable)] == [9, 10]
            assert [e.step for e in session.log.of(Pruned)] == [1, 2, 3]
            assert isinstance(await session.refused(11), Fenced)
        assert not [r for r in faulty.requests[before:] if r.startswith(("delete", "put latest"))]
        assert await steps(store) == [9, 10]
        assert (await checked(store)).head != answer.record

    run(act)


def test_rule_15_a_record_that_retention_of_the_new_owner_dropped_is_not() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        faulty = Reacting(store, "create commits/0000000007", taking_over(1, 20))
        async with Session(faulty, keep=2) as session:
            await session.resume()
            reason = await session.refused(10)
            assert isinstance(reason, Fenced)
            assert not reason.adopted
        assert await steps(store) == [20]

    run(act)


def test_rule_15_a_record_in_a_hole_below_the_head_counts_for_nothing() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        mine = Session(store)
        await mine.resume()
        await taking_over(1, 20, 21)(store)
        assert not await store.head(names.record_key(7))
        reason = await mine.refused(10)
        assert isinstance(reason, Fenced)
        assert not reason.adopted
        assert await store.head(names.record_key(7))
        assert await steps(store) == [21]
        await mine.close()
        async with Session(store) as session:
            await session.resume()
        assert not await store.head(names.record_key(7))

    run(act)


def test_rule_15_where_the_look_fails_the_outcome_is_unknown_and_the_next_save_opens_anew() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated) as session:
            await session.saved(1)
            gated.fail("list", "commits/", TransientError, times=1)
            assert isinstance(await session.refused(2), OutcomeUnknown)
            assert await steps(store) == [1, 2]
            assert (await session.saved(3)).inc == 2
        assert await steps(store) == [1, 2, 3]

    run(act)


def test_rule_15_where_reading_who_took_over_fails_the_outcome_is_unknown_and_the_next_save_is_fenced() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(Reacting(store, "create commits/0000000003", taking_over(None, 20)))
        async with Session(gated) as session:
            await session.saved(1)
            gated.fail("get", "run.json", TransientError, times=1)
            assert isinstance(await session.refused(2), OutcomeUnknown)
            assert isinstance(await session.refused(3), Fenced)
        assert await steps(store) == [1, 2, 20]

    run(act)


def test_rule_15_a_writer_that_opens_anew_after_an_unknown_outcome_is_fenced_by_who_came_between() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated) as session:
            await session.saved(1)
            gated.fail("list", "commits/", TransientError, times=1)
            assert isinstance(await session.refused(2), OutcomeUnknown)
            await taking_over(None, 20)(store)
            assert isinstance(await session.refused(3), Fenced)
        assert await steps(store) == [1, 2, 20]

    run(act)


def test_rule_15_an_open_whose_answer_got_lost_is_no_stranger_to_the_next_try() -> None:
    """Otherwise a writer would be fenced for ever by itself."""

    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated) as session:
            await session.saved(1)
            gated.fail("list", "commits/", TransientError, times=1)
            assert isinstance(await session.refused(2), OutcomeUnknown)
            gated.fail("reply", "commits/0000000004.json", TransientError, times=1)
            gated.fail("get", "commits/0000000004.json", TransientError, times=ATTEMPTS)
            assert isinstance(await session.refused(3), OutcomeUnknown)
            assert (await Catalog(store).slots())[-1] == 4
            assert (await session.saved(4)).inc == 3
        assert await steps(store) == [1, 2, 4]

    run(act)


def test_rule_15_nor_is_it_to_the_service_that_follows_one_that_died() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        first = Session(gated)
        await first.saved(1)
        second = Session(gated, former=first)
        gated.fail("reply", "commits/0000000003.json", TransientError, times=1)
        gated.fail("get", "commits/0000000003.json", TransientError, times=ATTEMPTS)
        assert isinstance(await second.refused(2), OutcomeUnknown)
        assert (await Catalog(store).slots())[-1] == 3
        async with Session(gated, former=second) as third:
            assert (await third.saved(3)).inc == 3
        assert await steps(store) == [1, 3]

    run(act)


# -- 17: fenced is terminal ------------------------------------------------------------------------------------


def test_rule_17_a_fenced_writer_writes_nothing_and_deletes_nothing_more() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        faulty = FaultyStorage(store)
        session = Session(faulty, keep=1)
        await session.resume()
        await session.saved(10)
        await session.saved(11)
        await taking_over(1, 20)(store)
        reason = await session.refused(12)
        assert isinstance(reason, Fenced)
        before, present = len(faulty.requests), await keys(store)
        assert await session.refused(13) is reason
        assert await session.refused(14) is reason
        with pytest.raises(Fenced):
            await session.resume()
        await session.close()
        changes = [r for r in faulty.requests[before:] if r.startswith(("put", "create", "delete", "abort"))]
        assert changes == []
        assert await keys(store) == present
        assert [e.step for e in session.log.of(Failed)] == [12, 13, 14]

    run(act)


def test_rule_17_the_folder_of_a_fenced_attempt_is_left_to_the_new_owner() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store) as mine:
            await mine.resume()
            await taking_over(None)(store)
            await mine.refused(10)
            assert [k for k in await keys(store, "data/") if "-step-10-" in k]
        async with Session(store) as other:
            await other.resume()
        assert not [k for k in await keys(store, "data/") if "-step-10-" in k]

    run(act)


def test_rule_17_fenced_names_who_took_the_run() -> None:
    async def act(store: MemoryStorage) -> None:
        writer = await opened(store)
        error = committing.fence("memory://x", 7, writer.head)
        for words in ("memory://x", "incarnation 1", "process 1 on host", "this one, 7"):
            assert words in str(error)

    run(act)


# -- L3: records that a crash may leave torn -------------------------------------------------------------------


def test_rule_L3_an_opener_goes_past_a_torn_record() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        top = (await Catalog(store).slots())[-1]
        await store.put(names.record_key(top + 1), [b""])
        assert await steps(store) == [1, 2, 3]
        async with Session(store) as session:
            assert (await session.resume()).head is not None
            assert (await session.saved(4)).slot == top + 3
        assert await steps(store) == [1, 2, 3, 4]
        assert not await store.head(names.record_key(top + 1))

    run(act, Giving("torn"))


def test_rule_L3_a_committer_whose_slot_is_torn_stops_and_reopens() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            assert (await session.saved(1)).slot == 2
            await store.put(names.record_key(3), [b""])
            assert isinstance(await session.refused(2), OutcomeUnknown)
            record = await session.saved(3)
            assert (record.slot, record.inc) == (5, 2)
        assert await steps(store) == [1, 3]
        await checked(store)

    run(act, Giving("torn"))


def test_rule_L3_a_torn_record_above_the_own_one_makes_the_outcome_unknown() -> None:
    async def act(store: MemoryStorage) -> None:
        async def claim(inner: Storage) -> None:
            if not await inner.head(names.record_key(4)):
                await inner.put(names.record_key(4), [b""])

        async with Session(Reacting(store, "create commits/0000000003", claim)) as session:
            await session.saved(1)
            assert isinstance(await session.refused(2), OutcomeUnknown)
            assert (await session.saved(3)).inc == 2
        assert await steps(store) == [1, 2, 3]

    run(act, Giving("torn"))


@pytest.mark.parametrize(
    ("request_", "key", "phase"),
    [
        ("list", "commits/", "open"),
        ("put", "data/*.safetensors", "write"),
        ("put", "commits/0000000002.json", "commit"),
    ],
)
def test_rejected_says_in_which_phase(request_: Request, key: str, phase: str) -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        gated.fail(request_, key, StorageDenied, times=1)
        async with Session(gated) as session:
            answer = await session.save(1)
            assert isinstance(answer, Rejected)
            assert (answer.phase, type(answer.error)) == (phase, StorageDenied)
            await session.saved(2)
        assert await steps(store) == [2]

    run(act)
