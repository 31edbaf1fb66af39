"""Wishes: what people ask of a run from outside, while a writer holds it and while nobody does."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.marking import mark, unmark
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointDirectoryExistsError,
    CheckpointNotFoundError,
    RunContended,
    StorageDenied,
)
from asyncckpt.events import Leftover, Listeners, Pruned
from asyncckpt.format import names
from asyncckpt.format.marks import Mark, drop_key, encode
from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.requests import FaultyStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker.commitlog.keeping import Keeping
from asyncckpt.worker.commitlog.offline import ask, drop, may_be_held
from tests.worker.drive import Log, Session, checked, keys, leftovers, run, steps, three
from tests.worker.stores import Reacting, damage

LOSS: Monitor = ("loss", "min")
BAD = b"not a request at all"


async def put(store: MemoryStorage, *marks: Mark) -> None:
    for one in marks:
        await store.put(one.key, [encode("me", 1)])


# -- pins and tags ---------------------------------------------------------------------------------------------


def test_P9_a_writer_spares_what_is_pinned_or_tagged_and_says_that_it_saw_it() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1) as session:
            first, second = await session.saved(1), await session.saved(2)
            assert second.acknowledged == ()
            await put(store, Mark(2))
            third = await session.saved(3)
            assert (await steps(store), third.acknowledged) == ([2, 3], (2,))
            await put(store, Mark(3, "paper"))
            fourth = await session.saved(4)
            assert (await steps(store), fourth.acknowledged) == ([2, 3, 4], (2, 3))
            await unmark(Catalog(store), 2, None)
            await session.saved(5)
            assert await steps(store) == [3, 5]
            assert first.checkpoint is not None
        await checked(store)

    run(act)


def test_nothing_is_removed_while_marks_cannot_be_read() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated, keep=1) as session:
            await session.saved(1)
            await put(store, Mark(1))
            gated.fail("list", "user/", StorageDenied, times=1)
            await session.saved(2)
            assert await steps(store) == [1, 2]
            assert "could not be read" in session.log.of(Leftover)[0].what
            await session.saved(3)
            assert await steps(store) == [1, 3], "the next save makes up for it"

    run(act)


def test_marks_of_what_is_gone_are_swept_and_strange_objects_stay_and_are_reported() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store, keep=1)
        await put(store, Mark(1), Mark(2, "old"), Mark(3), Mark(77))
        await store.put("user/notes.txt", [b"mine"])
        async with Session(store) as session:
            await session.resume()
            await session.tidied()
            assert await keys(store, "user/") == [Mark(3).key, Mark(77).key, "user/notes.txt"]
            assert any("user/notes.txt" in event.what for event in session.log.of(Leftover))

    run(act)


def test_marking_what_is_listed() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        catalog = Catalog(store)
        assert (await mark(catalog, "latest", None, SYSTEM_CLOCK)).seq == 3
        assert (await mark(catalog, 1, "paper", SYSTEM_CLOCK)).seq == 1
        infos = (await catalog.listing()).infos()
        assert [(info.pinned, info.tags) for info in infos] == [(False, ("paper",)), (False, ()), (True, ())]
        assert (await catalog.listing()).find("paper").seq == 1
        assert (await mark(catalog, 2, "paper", SYSTEM_CLOCK)).seq == 2, "a tag moves"
        assert [info.tags for info in (await catalog.listing()).infos()] == [(), ("paper",), ()]
        assert await unmark(catalog, None, "paper") == 1
        assert await unmark(catalog, "latest", None) == 1
        assert await unmark(catalog, "latest", None) == 0
        assert await keys(store, "user/") == []
        with pytest.raises(CheckpointNotFoundError, match="no checkpoint 'paper'"):
            (await catalog.listing()).find("paper")

    run(act)


def test_a_tag_on_two_checkpoints_names_neither() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await put(store, Mark(1, "paper"), Mark(2, "paper"))
        with pytest.raises(CheckpointNotFoundError, match="names 00000001 and 00000002"):
            (await Catalog(store).listing()).find("paper")
        await mark(Catalog(store), 1, "paper", SYSTEM_CLOCK)
        assert (await Catalog(store).listing()).find("paper").seq == 1

    run(act)


def test_a_mark_that_comes_too_late_is_taken_back_and_says_so() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1) as session:
            await session.saved(1)

            class Overtaken(MemoryStorage):
                async def put(self, key: str, *arguments: object, **options: object) -> object:
                    await session.saved(2)
                    return await store.put(key, *arguments, **options)

                def __getattribute__(self, name: str) -> object:
                    return object.__getattribute__(self, name) if name == "put" else getattr(store, name)

            with pytest.raises(CheckpointNotFoundError, match="removed the checkpoint of step 1 before it was marked"):
                await mark(Catalog(Overtaken()), 1, None, SYSTEM_CLOCK)
        assert await keys(store, "user/") == []

    run(act)


# -- requests --------------------------------------------------------------------------------------------------


def test_a_writer_removes_what_it_is_asked_to_with_its_next_record() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            for step in (1, 2, 3):
                await session.saved(step)
            await put(store, Mark(2))
            await ask(store, [1, 2, 3, 99], "me@here", SYSTEM_CLOCK)
            record = await session.saved(4)
            assert [(gone.seq, gone.reason) for gone in record.removed] == [
                (1, "asked for by me@here"),
                (3, "asked for by me@here"),
            ]
            assert await steps(store) == [2, 4]
            assert [event.seq for event in session.log.of(Pruned)] == [1, 3]
            await session.saved(5)
            assert await keys(store, "user/") == [Mark(2).key], "a request is answered once"
        await checked(store)
        assert [key for key in await leftovers(store) if not key.startswith("user/")] == []

    run(act)


def test_a_request_that_cannot_be_read_is_reported_and_the_others_are_heard() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            await session.saved(1)
            await session.saved(2)
            await store.put(drop_key(), [BAD])
            await ask(store, [1], "me", SYSTEM_CLOCK)
            await session.saved(3)
            assert await steps(store) == [2, 3]
            assert "the request user/drop-" in session.log.of(Leftover)[0].what

    run(act)


def test_a_request_whose_deletion_fails_is_answered_again_without_harm() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated) as session:
            await session.saved(1)
            await session.saved(2)
            await ask(store, [1], "me", SYSTEM_CLOCK)
            gated.fail("delete", "user/*", StorageDenied, times=1)
            await session.saved(3)
            assert "requests that were answered" in {event.what for event in session.log.of(Leftover)}
            await session.saved(4)
        assert (await steps(store), await keys(store, "user/")) == ([2, 3, 4], [])

    run(act)


# -- pruning without a save ------------------------------------------------------------------------------------


def test_a_service_prunes_by_a_record_of_its_own_and_deletes_at_once() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store, keep=1) as session:
            await session.resume()
            planned = await session.service.prune(dry_run=True)
            assert ([gone.seq for gone in planned.removed], await steps(store)) == ([1, 2], [1, 2, 3])
            assert await session.service.prune(dry_run=False) == planned
            assert await steps(store) == [3]
            head = await Catalog(store).head()
            assert head is not None
            assert (head.kind, head.latest, [gone.seq for gone in head.removed]) == ("prune", 3, [1, 2])
            # The prune record itself is the head: nothing else is left that it does not need.
            assert await leftovers(store) == []
            assert (await session.service.prune(dry_run=False)).removed == ()
            assert await Catalog(store).head() == head, "nothing to remove needs no record"
            await session.saved(4)
        await checked(store)
        assert await leftovers(store) == []

    run(act)


def test_a_dry_run_of_a_reader_changes_nothing() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        before = await keys(store)
        async with Session(store, keep=1) as session:
            assert len((await session.service.prune(dry_run=True)).removed) == 2
        assert await keys(store) == before

    run(act)


def test_what_is_dropped_offline_is_deleted_and_the_run_is_closed() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await put(store, Mark(2))
        planned = await drop(store, {1: "pruned by me", 2: "pruned by me", 3: "x", 9: "x"}, Listeners(()), SYSTEM_CLOCK)
        assert [(gone.seq, gone.reason) for gone in planned.removed] == [(1, "pruned by me")]
        listing = await checked(store)
        assert [c.seq for c in listing.checkpoints] == [2, 3], "neither the pinned one nor the latest goes"
        assert listing.head is not None
        assert (listing.head.kind, listing.head.latest) == ("close", 3)
        assert await leftovers(store) == [Mark(2).key]

    run(act)


def test_who_is_pruned_offline_is_fenced() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            await session.saved(1)
            await session.saved(2)
            await drop(store, {1: "x"}, Listeners(()), SYSTEM_CLOCK)
            assert "taken by incarnation 2" in str(await session.refused(3))
        assert await steps(store) == [2]

    run(act)


@pytest.mark.parametrize(("kind", "held"), [("close", False), ("checkpoint", True), ("open", True), ("prune", True)])
def test_a_run_is_taken_to_be_held_unless_it_was_closed(kind: str, held: bool) -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        head = await Catalog(store).head()
        assert head is not None
        assert may_be_held(replace(head, kind=kind)) == held

    run(act)


@pytest.mark.parametrize("fault", ["refuse", "lose_reply"])
def test_an_offline_removal_that_fails_at_any_request_leaves_all_or_less_and_never_a_broken_one(fault: str) -> None:
    async def one(number: int) -> bool:
        """Whether the removal had so many requests."""
        store = MemoryStorage()
        await three(store)
        await put(store, Mark(2))
        faulty = FaultyStorage(store)
        getattr(faulty, fault)(number)
        with suppress(AsyncCkptError):
            await drop(faulty, {1: "x", 2: "x"}, Listeners(()), SYSTEM_CLOCK)
        listed = [c.seq for c in (await checked(store)).checkpoints]
        assert listed in ([1, 2, 3], [2, 3]), (number, faulty.requests)
        async with Session(store) as session:
            await session.resume()
            await session.tidied()
            await session.saved(9)
        assert [c.seq for c in (await checked(store)).checkpoints] == [*listed, 4]
        assert await leftovers(store) == [Mark(2).key], (number, faulty.requests)
        return len(faulty.requests) > number

    async def act(store: MemoryStorage) -> None:
        number = 0
        while await one(number):
            number += 1
        assert number > 15

    run(act)


def test_a_service_prunes_nothing_while_marks_cannot_be_read_and_says_so() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        gated = GatedStorage(store)
        async with Session(gated, keep=1) as session:
            await session.resume()
            gated.fail("list", "user/", StorageDenied, times=1)
            with pytest.raises(StorageDenied):
                await session.service.prune(dry_run=False)
            assert await steps(store) == [1, 2, 3]

    run(act)


@pytest.mark.parametrize(("keep", "resumed"), [(1, False), (3, True)], ids=["not resumed", "nothing to remove"])
def test_pruning_that_does_nothing_stops_nobody(keep: int, resumed: bool) -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as holder:
            for step in (1, 2, 3):
                await holder.saved(step)
            async with Session(store, keep=keep, resumed=resumed) as session:
                if resumed:
                    assert (await session.service.prune(dry_run=False)).removed == ()
                else:
                    with pytest.raises(CheckpointDirectoryExistsError):
                        await session.service.prune(dry_run=False)
            await holder.saved(4)

    run(act)


def test_p9_the_best_of_an_earlier_training_stays_though_this_one_names_no_metric() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, monitor=LOSS) as session:
            for step, loss in ((1, 0.1), (2, 0.5), (3, 0.9)):
                await session.saved(step, {"loss": loss})
        async with Session(store, keep=1) as session:
            await session.resume()
            assert [removal.step for removal in (await session.service.prune(dry_run=False)).removed] == [2]
            await session.saved(4)
            assert await steps(store) == [1, 4]

    run(act)


def test_p9_neither_a_request_nor_a_removal_offline_takes_the_best() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, monitor=LOSS) as session:
            for step, loss in ((1, 0.1), (2, 0.5), (3, 0.9)):
                await session.saved(step, {"loss": loss})
            await ask(store, [1, 2], "me", SYSTEM_CLOCK)
            record = await session.saved(4, {"loss": 0.7})
            assert [removal.step for removal in record.removed] == [2]
        planned = await drop(store, {1: "x", 3: "x"}, Listeners(()), SYSTEM_CLOCK)
        assert [removal.step for removal in planned.removed] == [3]
        most = await drop(store, {1: "x"}, Listeners(()), SYSTEM_CLOCK, monitor=("loss", "max"))
        assert [removal.step for removal in most.removed] == [1]
        assert await steps(store) == [4]

    run(act)


def test_best_is_what_the_training_calls_so_whoever_prunes() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, monitor=LOSS) as session:
            for step, loss in ((1, 0.1), (2, 0.9), (3, 0.5)):
                await session.saved(step, {"loss": loss})
        await drop(store, {1: "x"}, Listeners(()), SYSTEM_CLOCK, monitor=("loss", "max"))
        assert await steps(store) == [2, 3]
        assert b'"step":3' in bytes(await store.get(names.BEST))

    run(act)


def test_a_removal_offline_is_done_although_somebody_elses_file_is_in_the_place_of_a_hint() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, monitor=LOSS) as session:
            for step, loss in ((1, 0.1), (2, 0.9), (3, 0.5)):
                await session.saved(step, {"loss": loss})
        await store.put(names.BEST, [b"notes"])
        log = Log()
        planned = await drop(store, {2: "x"}, Listeners([log]), SYSTEM_CLOCK)
        assert [removal.step for removal in planned.removed] == [2]
        assert [event.what for event in log.of(Leftover)] == ["the hints latest and best"]
        assert (await steps(store), bytes(await store.get(names.BEST))) == ([1, 3], b"notes")

    run(act)


def test_what_a_training_goes_on_from_after_a_fallback_is_not_pruned() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store) as session:
            session.service.keeping = Keeping(store, RetentionPolicy(every_steps=1000), None, Listeners(()))
            await session.resume()
            await session.found_damaged(3)
            await session.service.go_on(2, {3}, named=False)
            for dry_run in (True, False):
                planned = await session.service.prune(dry_run=dry_run)
                assert [removal.step for removal in planned.removed] == [1]
        assert await steps(store) == [2, 3]

    run(act)


def test_where_the_record_of_the_latest_is_lost_what_a_resume_takes_instead_is_not_pruned() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        slot = max((await Catalog(store).listing()).records, key=lambda record: record.slot).slot
        await damage(store, names.record_key(slot))
        planned = await drop(store, {1: "x", 2: "x"}, Listeners(()), SYSTEM_CLOCK)
        assert [removal.step for removal in planned.removed] == [1]
        assert (await Catalog(store).listing()).candidates()[0].step == 2

    run(act)


def test_a_run_that_somebody_takes_after_the_plan_was_made_is_left_to_them() -> None:
    """The plan is shown, somebody thinks about it, and a training starts meanwhile: it is not stopped."""

    async def act(store: MemoryStorage) -> None:
        await three(store)
        seen = await Catalog(store).head()
        async with Session(store) as session:
            await session.resume()
            with pytest.raises(RunContended, match="taken by another process meanwhile; nothing was done"):
                await drop(store, {1: "x"}, Listeners(()), SYSTEM_CLOCK, on=seen)
            await session.saved(4)
        assert await steps(store) == [1, 2, 3, 4]

    run(act)


def test_a_run_that_somebody_takes_while_it_is_being_opened_is_left_to_them() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        seen = await Catalog(store).head()
        sessions = []

        async def start(inner: Storage) -> None:
            if not sessions:
                sessions.append(Session(inner))
                await sessions[0].resume()

        with pytest.raises(RunContended):
            await drop(Reacting(store, "list commits/", start), {1: "x"}, Listeners(()), SYSTEM_CLOCK, on=seen)
        await sessions[0].saved(4)
        await sessions[0].close()
        assert await steps(store) == [1, 2, 3, 4]

    run(act)
