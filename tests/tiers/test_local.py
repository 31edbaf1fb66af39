"""The local tier: it has a save first, never harms the root, and loses nothing that the root did not get."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.errors import (
    CheckpointCorruptError,
    CheckpointDirectoryExistsError,
    Fenced,
    OutcomeUnknown,
    RunRefused,
    StorageDenied,
    StorageError,
    TransientError,
)
from asyncckpt.events import HOME, Ahead, Damaged, Durable, Fallback, Pruned, Restoring, TierDurable, TierFailed
from asyncckpt.fetching import progress
from asyncckpt.fetching.reading import verify
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.requests import FaultyStorage
from asyncckpt.worker import bringing, copying, room, tier
from asyncckpt.worker import local as locals_
from asyncckpt.worker.commitlog import home as home_
from asyncckpt.worker.commitlog import ownership
from asyncckpt.worker.job import Committed, Rejected
from asyncckpt.worker.ticket import Ticket
from tests.worker.drive import Session, changing, checked, drive, image, keys, leftovers, steps
from tests.worker.mutants import mutate
from tests.worker.stores import Ignoring, damage

from .test_mirroring import digests, killed

Act = Callable[[MemoryStorage, MemoryStorage], Coroutine[Any, Any, None]]


def run(act: Act) -> None:
    drive(act(MemoryStorage("home"), MemoryStorage("local")))


def away() -> TransientError:
    return TransientError("the root is away")


class Failing(MemoryStorage):
    """Refuses whatever it is asked for while `is_dead`, or what `refuses` names."""

    def __init__(self, name: str, inner: MemoryStorage | None = None) -> None:
        super().__init__(name)
        if inner is not None:
            self._objects = inner._objects
        self.is_dead = False
        self.dead_keys = ""

    def _check(self, key: str) -> None:
        if self.is_dead or (self.dead_keys and self.dead_keys in key):
            raise away()

    async def put(self, key: str, *arguments: Any, **options: Any) -> Any:
        self._check(key)
        return await super().put(key, *arguments, **options)

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        self._check(key)
        return await super().get(key, *arguments, **options)

    async def head(self, key: str) -> Any:
        self._check(key)
        return await super().head(key)

    async def list(self, *arguments: Any, **options: Any) -> Any:
        self._check("")
        async for found in super().list(*arguments, **options):
            yield found

    async def delete(self, keys: Any) -> None:
        self._check("")
        await super().delete(keys)

    async def probe(self) -> Any:
        self._check("")
        return await super().probe()


async def resumed(session: Session) -> Listing:
    listing = await session.resume()
    await session.go_on(listing)
    return listing


def latest(listing: Listing) -> int:
    return listing.candidates()[0].step


async def trained(home: Storage, nearer: Storage, *saved: int, keep: int | None = None, tidy: bool = True) -> Session:
    """A session that goes on from what is there and saves these steps, whatever becomes of them."""
    session = Session(home, local=nearer, keep=keep)
    await resumed(session)
    for step in saved:
        await session.save(step)
    await (session.close() if tidy else session.abandon())
    return session


async def ahead(home: MemoryStorage, nearer: MemoryStorage, *more: int) -> None:
    """Steps 1 and 2 are in both tiers, and `more` on the local one only: the root was away, then all were killed."""
    failing = Failing("home", home)
    session = Session(failing, local=nearer)
    await resumed(session)
    for step in (1, 2):
        await session.saved(step)
    failing.is_dead = True
    for step in more:
        await session.refused(step)
    await session.abandon()


async def begun_nearby(inner: MemoryStorage, nearer: MemoryStorage) -> Failing:
    """The root of a run whose first step is on the local tier alone: the root took no pack, then all were killed."""
    home = Failing("home", inner)
    session = Session(home, local=nearer)
    await session.resume()
    home.dead_keys = ".safetensors"
    await session.refused(1)
    await session.abandon()
    home.dead_keys = ""
    return home


async def landed(session: Session, count: int) -> None:
    """Return once so many saves are on the local tier."""
    for _ in range(10_000):
        if len(session.landed) >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{len(session.landed)} saves are on the local tier, not {count}")


async def spoil(storage: MemoryStorage, step: int) -> None:
    """Damage a pack of that step."""
    packs = [key for key in await keys(storage, "data/") if f"-step-{step}-" in key and key.endswith(".safetensors")]
    await damage(storage, packs[0])


# -- a save ----------------------------------------------------------------------------------------------------


def test_a_save_is_on_the_local_tier_before_it_is_at_home_and_is_the_same() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        async with Session(home, local=nearer) as session:
            for step in (1, 2, 3, 4):
                await session.saved(step)
        told = [(type(e), e.step) for e in session.log.events if isinstance(e, TierDurable | Durable)]
        assert told == [(kind, step) for step in (1, 2, 3, 4) for kind in (TierDurable, Durable)]
        assert [landed.record.checkpoint.step for landed in session.landed] == [1, 2, 3, 4]
        ours, theirs = await digests(home), await digests(nearer)
        assert {step: ours[step] for step in theirs} == theirs
        for key in await keys(nearer, "data/"):
            assert await nearer.get(key) == await home.get(key)
        await checked(home)
        await checked(nearer)
        assert await leftovers(home) == await leftovers(nearer) == []

    run(act)


def test_each_tier_keeps_its_own_and_the_local_one_the_last_two() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        async with Session(home, local=nearer, keep=3) as session:
            for step in range(1, 8):
                await session.saved(step)
        assert await steps(home) == [5, 6, 7]
        assert await steps(nearer) == [6, 7]
        for where, gone in ((HOME, [1, 2, 3, 4]), ("local", [1, 2, 3, 4, 5])):
            assert [event.step for event in session.log.of(Pruned) if event.tier == where] == gone
        await checked(nearer)
        await checked(home)
        assert await leftovers(nearer) == await leftovers(home) == []

    run(act)


def test_what_is_not_at_home_is_kept_until_something_newer_is() -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = Failing("home", inner)
        async with Session(home, local=nearer) as session:
            await session.saved(1)
            home.is_dead = True
            for step in range(2, 8):
                assert "the root is away" in str(await session.refused(step))
            assert await steps(nearer) == [2, 3, 4, 5, 6, 7]
            home.is_dead = False
            await session.saved(8)
            await session.saved(9)
        assert await steps(nearer) == [8, 9]
        assert await steps(inner) == [1, 8, 9]
        await checked(inner)
        await checked(nearer)
        assert await leftovers(nearer) == await leftovers(inner) == []

    run(act)


def test_what_is_not_at_home_would_be_dropped_if_it_were_not_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, locals_, "self.tier.spare(c.seq for c in self._ahead(home, own))", "self.tier.spare(())")
    with pytest.raises(AssertionError, match=r"assert \[6, 7\] == \[2, 3, 4, 5, 6, 7\]"):
        test_what_is_not_at_home_is_kept_until_something_newer_is()


def test_a_root_whose_commit_is_lost_in_the_net_stays_away_and_local_commits_go_on() -> None:
    """Then whether the slot is taken only a new look could tell, and there is none: the numbers go on all the same."""

    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = Failing("home", inner)
        session = Session(home, local=nearer)
        await resumed(session)
        await session.saved(1)
        session.service.ownership.writer = None  # as after `OutcomeUnknown`
        home.is_dead = True
        for step in (2, 3):
            await session.refused(step)
        assert (await steps(nearer))[-2:] == [2, 3]
        home.is_dead = False
        await session.saved(4)
        await session.close()
        assert await steps(inner) == [1, 4]
        assert (await steps(nearer))[-1] == 4
        await checked(nearer)
        async with Session(home, local=nearer) as again:
            assert latest(await resumed(again)) == 4

    run(act)


@pytest.mark.parametrize("error", [lambda: StorageDenied(28, "No space left on device"), TransientError])
def test_a_dead_local_tier_fails_no_save_and_is_told_of(error: Callable[[], Exception]) -> None:
    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        nearer = FaultyStorage(inner)
        for number in range(10_000):
            nearer.refuse(number, error)
        async with Session(home, local=nearer) as session:
            await resumed(session)
            for step in (1, 2, 3):
                await session.saved(step)
        failed = [event for event in session.log.of(TierFailed) if event.step is not None]
        assert [(event.tier, event.step, event.is_final) for event in failed] == [
            ("local", s, False) for s in (1, 2, 3)
        ]
        assert isinstance(failed[0].error, type(error()))
        assert session.landed == []
        assert await steps(home) == [1, 2, 3]
        await checked(home)

    run(act)


async def _requests_of(nearer: bool) -> list[str]:
    home, inner = MemoryStorage(), MemoryStorage()
    await trained(home, inner, 1, 2, keep=2)
    faulty = FaultyStorage(inner if nearer else home)
    await (trained(home, faulty, 3, 4, keep=2) if nearer else trained(faulty, inner, 3, 4, keep=2))
    return faulty.requests


@pytest.mark.parametrize(
    ("fault", "store"), [("refuse", MemoryStorage), ("lose_reply", MemoryStorage), ("refuse", Ignoring)]
)
def test_a_local_tier_that_fails_at_any_request_harms_no_save_and_catches_up(
    fault: str, store: type[MemoryStorage]
) -> None:
    async def act(number: int) -> None:
        home, inner = MemoryStorage(), store()
        await trained(home, inner, 1, 2, keep=2)
        faulty = FaultyStorage(inner)
        getattr(faulty, fault)(number, TransientError)
        session = await trained(home, faulty, 3, 4, keep=2)
        assert len(session.records) == 2, faulty.requests[number]
        assert await steps(home) == [3, 4]
        await checked(home)
        await checked(inner)
        await trained(home, inner, 5, 6, keep=2)
        assert await steps(inner) == await steps(home) == [5, 6], faulty.requests[number]
        assert await digests(inner) == await digests(home)
        await trained(home, inner, 7, keep=2)
        await trained(home, inner, 8, keep=2)
        assert await leftovers(inner) == [], faulty.requests[number]

    for number in range(len(drive(_requests_of(nearer=True)))):
        drive(act(number))


@pytest.mark.parametrize("is_home", [True, False], ids=["home", "local"])
def test_a_kill_at_any_request_of_either_store_loses_nothing_and_resume_finds_old_or_new(is_home: bool) -> None:
    async def act(number: int) -> None:
        home, nearer = MemoryStorage(), MemoryStorage()
        await trained(home, nearer, 1, 2, keep=2)
        faulty = FaultyStorage(home if is_home else nearer)
        pause = faulty.pause(number)
        work = trained(faulty, nearer, 3, 4, keep=2) if is_home else trained(home, faulty, 3, 4, keep=2)
        training = asyncio.create_task(work)
        await pause.reached(training)
        await killed()
        await checked(home)
        await checked(nearer)
        saved_locally, at_home = await steps(nearer), await steps(home)
        session = Session(home, local=nearer, keep=2)
        found = latest(await resumed(session))
        assert found == max(saved_locally[-1], at_home[-1]), faulty.requests[number]
        assert (await steps(home))[-1] == found
        await checked(home)
        await session.saved(found + 1)
        await session.close()
        await trained(home, nearer, found + 2, keep=2)
        await trained(home, nearer, found + 3, keep=2)
        for store in (home, nearer):
            await checked(store)
            assert (await steps(store))[-1] == found + 3
            assert await leftovers(store) == [], faulty.requests[number]

    for number in range(len(drive(_requests_of(nearer=not is_home)))):
        drive(act(number))


async def at_once(home: Storage, nearer: Storage, *saved: int, keep: int | None = None) -> Session:
    """As `trained`, with no wait between the saves: they land while those before are on their way home."""
    session = Session(home, local=nearer, keep=keep)
    await resumed(session)
    await asyncio.gather(*(session.save(step) for step in saved))
    await session.close()
    return session


async def _requests_at_once() -> list[str]:
    home, nearer = MemoryStorage(), MemoryStorage()
    await trained(home, nearer, 1, 2, keep=2)
    faulty = FaultyStorage(home)
    await at_once(faulty, nearer, 3, 4, 5, keep=2)
    return faulty.requests


def test_a_kill_while_several_are_on_their_way_home_loses_nothing() -> None:
    async def act(number: int) -> None:
        home, nearer = MemoryStorage(), MemoryStorage()
        await trained(home, nearer, 1, 2, keep=2)
        faulty = FaultyStorage(home)
        pause = faulty.pause(number)
        training = asyncio.create_task(at_once(faulty, nearer, 3, 4, 5, keep=2))
        await pause.reached(training)
        await killed()
        await checked(home)
        await checked(nearer)
        saved_locally, at_home = await steps(nearer), await steps(home)
        session = Session(home, local=nearer, keep=2)
        found = latest(await resumed(session))
        assert found == max(saved_locally[-1], at_home[-1]), faulty.requests[number]
        await session.saved(6)
        await session.close()
        for step in (7, 8):
            await trained(home, nearer, step, keep=2)
        for store in (home, nearer):
            await checked(store)
            assert (await steps(store))[-1] == 8
            assert await leftovers(store) == [], faulty.requests[number]

    for number in range(len(drive(_requests_at_once()))):
        drive(act(number))


@pytest.mark.parametrize("fault", ["refuse", "lose_reply"])
def test_a_root_that_fails_at_any_request_leaves_all_on_the_local_tier_and_both_in_order(fault: str) -> None:
    async def act(number: int, error: type[StorageError]) -> None:
        home, nearer = MemoryStorage(), MemoryStorage()
        await trained(home, nearer, 1, 2, keep=2)
        faulty = FaultyStorage(home)
        getattr(faulty, fault)(number, error)
        session = Session(faulty, local=nearer, keep=2)
        with suppress(StorageError):
            await resumed(session)
            await asyncio.gather(*(session.save(step) for step in (3, 4, 5)))
            assert [landed.record.checkpoint.step for landed in session.landed] == [3, 4, 5], faulty.requests[number]
        await session.close()
        await checked(home)
        await checked(nearer)
        listed = (await steps(nearer))[-1]
        async with Session(home, local=nearer, keep=2) as session:
            assert latest(await resumed(session)) == listed, faulty.requests[number]
            await session.saved(6)
        for step in (7, 8):
            await trained(home, nearer, step, keep=2)
        for store in (home, nearer):
            await checked(store)
            assert await leftovers(store) == [], faulty.requests[number]

    for number, request in enumerate(drive(_requests_at_once())):
        is_unknown = fault == "lose_reply" and request.startswith(("put", "create"))
        drive(act(number, OutcomeUnknown if is_unknown else TransientError))


def test_what_had_landed_and_is_gone_is_not_saved_from_memory_that_is_another_one_s() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        first = Session(home, local=nearer)
        await first.saved(1)
        await first.abandon()
        answers: list[Any] = []
        async with Session(home, local=nearer, former=first) as session:
            known = replace(session._ticket(2, {}, None, answers.append), repeated=True)
            session.service.submit(known.without_memory())
            session.service.submit(replace(known.without_memory(), job=replace(known.job, id="another", step=3)))
            await session.saved(4)
        rejected = [answer for answer in answers if isinstance(answer, Rejected)]
        assert len(rejected) == 2
        for step, answer in zip((2, 3), rejected, strict=True):
            assert f"step {step} was given up on the local tier before the root had it" in str(answer.error)
        assert await steps(home) == await steps(nearer) == [1, 4]

    run(act)


# -- somebody else takes the run -------------------------------------------------------------------------------


def test_who_has_lost_the_run_saves_nothing_more_on_the_local_tier_either() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        session = Session(home, local=nearer)
        await resumed(session)
        await session.saved(1)
        async with Session(home, local=MemoryStorage("elsewhere")) as other:
            assert latest(await resumed(other)) == 1
            await other.saved(8)
        assert isinstance(await session.refused(2), Fenced)  # on the local tier, before it was known
        assert isinstance(await session.refused(3), Fenced)
        assert [landed.record.checkpoint.step for landed in session.landed] == [1, 2]
        await session.close()
        async with Session(home, local=nearer) as session:
            assert latest(await resumed(session)) == 8
        assert await steps(home) == [1, 8]

    run(act)


def test_a_training_that_is_stopped_on_the_way_home_and_goes_on_after_another_took_over_harms_nothing() -> None:
    async def act(number: int) -> bool:
        home, nearer = MemoryStorage(), MemoryStorage()
        await trained(home, nearer, 1, 2, keep=2)
        faulty = FaultyStorage(home)
        zombie = Session(faulty, local=nearer, keep=2)
        await resumed(zombie)
        pause = faulty.pause(len(faulty.requests) + number)
        saves = asyncio.gather(*(zombie.save(step) for step in (3, 4, 5)))
        if stopped := await pause.reached(saves):
            await trained(home, MemoryStorage("elsewhere"), 21, 22, keep=2)
            taken = await digests(home)
            pause.release()
            await saves
            assert await digests(home) == taken, faulty.requests[-1]
        await saves
        pause.release()  # what it stops may come after the last answer
        await zombie.close()
        await checked(home)
        await checked(nearer)
        return stopped

    numbers = itertools.count()
    while drive(act(next(numbers))):
        pass
    assert next(numbers) > 20


# -- a start ---------------------------------------------------------------------------------------------------


def test_rule_29_what_only_the_local_tier_has_is_brought_home_and_gone_on_from() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        await ahead(home, nearer, 3, 4)
        assert await steps(home) == [1, 2]
        async with Session(home, local=nearer) as session:
            listing = await resumed(session)
            assert latest(listing) == 4
            assert await steps(home) == [1, 2, 4]
            await checked(home)
            await session.saved(5)
        (brought,) = [event for event in session.log.of(TierDurable) if event.tier == HOME]
        assert brought.step == 4
        assert await steps(home) == [1, 2, 4, 5]
        await checked(home)
        assert await steps(nearer) == [4, 5]
        records = (await Catalog(home).listing()).checkpoints
        assert records[-1].parent == records[-2].seq
        assert await leftovers(home) == await leftovers(nearer) == []

    run(act)


def test_what_is_brought_home_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    monkeypatch.setattr(copying, "PIECE", 4096)

    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        await ahead(home, nearer, 3)
        async with Session(home, local=nearer) as session:
            assert latest(await resumed(session)) == 3
        told = session.log.of(Restoring)
        assert {(event.step, event.brought_from) for event in told} == {(3, "local")}
        done = [event.done for event in told]
        assert len(done) > 1
        assert done == sorted(done)
        (total,) = {event.total for event in told}
        assert done[-1] == total == sum(p.length for p in (await Catalog(home).listing()).checkpoints[-1].packs)

    run(act)


def test_rule_29_an_abandoned_branch_on_the_local_tier_is_not_taken() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        await ahead(home, nearer, 3)
        async with Session(home) as session:  # on another machine, from the root
            assert latest(await resumed(session)) == 2
            await session.saved(8)
        async with Session(home, local=nearer) as session:  # and back here
            assert latest(await resumed(session)) == 8
            await session.saved(9)
        assert await steps(home) == [1, 2, 8, 9]
        assert (await steps(nearer))[-1] == 9
        assert session.log.of(TierFailed) == []
        await checked(nearer)

    run(act)


def test_rule_29_an_abandoned_branch_would_be_taken_if_only_the_number_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutate(monkeypatch, home_, "if number_of(c) > number and c.seq > newest]", "if c.step == 3]")
    with pytest.raises((AssertionError, RunRefused, CheckpointCorruptError)):
        test_rule_29_an_abandoned_branch_on_the_local_tier_is_not_taken()


def test_a_damaged_local_checkpoint_is_told_and_the_one_before_it_is_brought() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        await ahead(home, nearer, 3, 4)
        await spoil(nearer, 4)
        async with Session(home, local=nearer) as session:
            assert latest(await resumed(session)) == 3
            assert [(e.step, e.tier) for e in session.log.of(Damaged)] == [(4, "local")]
            await session.saved(5)
        assert await steps(home) == [1, 2, 3, 5]
        await checked(home)
        assert (await steps(nearer))[-1] == 5
        assert [info.step for info in (await Catalog(nearer).listing()).infos() if info.damaged] == [4]
        assert not any(info.damaged for info in (await Catalog(home).listing()).infos())

    run(act)


def test_where_nothing_of_the_local_tier_is_sound_the_root_is_gone_on_from() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        await ahead(home, nearer, 3)
        await spoil(nearer, 3)
        async with Session(home, local=nearer) as session:
            assert latest(await resumed(session)) == 2
            await session.saved(4)
        assert await steps(home) == [1, 2, 4]
        await checked(home)

    run(act)


def test_a_root_that_fails_while_it_gets_what_it_lacks_raises_and_nothing_is_lost() -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        await ahead(inner, nearer, 3)
        home = Failing("home", inner)
        home.dead_keys = "-step-3-"
        session = Session(home, local=nearer)
        with pytest.raises(TransientError, match="the root is away"):
            await session.resume()
        await session.abandon()
        home.dead_keys = ""
        async with Session(home, local=nearer) as session:
            assert latest(await resumed(session)) == 3

    run(act)


def test_a_local_tier_that_cannot_be_read_leaves_the_root() -> None:
    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        await ahead(home, inner, 3)
        nearer = Failing("local", inner)
        nearer.dead_keys = ".safetensors"
        async with Session(home, local=nearer) as session:
            assert latest(await resumed(session)) == 2
            assert [(e.step, e.is_final) for e in session.log.of(TierFailed)] == [(3, False)]

    run(act)


def test_the_first_checkpoint_of_a_run_is_not_begun_beside() -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = await begun_nearby(inner, nearer)
        async with Session(home, local=nearer, resumed=False) as session:
            assert isinstance(await session.refused(2), CheckpointDirectoryExistsError)
            assert latest(await resumed(session)) == 1
            await session.saved(2)
        async with Session(home, local=nearer, resumed=False, overwrite=True) as session:
            await session.saved(9)
        assert await steps(inner) == await steps(nearer) == [9]

    run(act)


def test_a_run_whose_only_checkpoint_is_damaged_is_not_begun_anew() -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = await begun_nearby(inner, nearer)
        await spoil(nearer, 1)
        async with Session(home, local=nearer, resumed=False) as session:
            with pytest.raises(CheckpointCorruptError, match="none of the 1 in memory://local is sound"):
                await session.resume()

    run(act)


def test_the_local_tier_of_another_run_is_refused_and_stays_as_it_is() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        await trained(home, MemoryStorage(), 1)
        await trained(nearer, MemoryStorage(), 1)
        before = {key: bytes(await nearer.get(key)) for key in await keys(nearer)}
        async with Session(home, local=nearer) as session:
            with pytest.raises(RunRefused, match="holds checkpoints of another run"):
                await session.resume()
            assert isinstance(await session.refused(3), RunRefused)
        assert {key: bytes(await nearer.get(key)) for key in await keys(nearer)} == before

    run(act)


def test_an_empty_root_whose_local_tier_holds_checkpoints_is_never_begun_anew() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        await trained(home, nearer, 1)
        async with Session(MemoryStorage("lost"), local=nearer) as session:
            with pytest.raises(RunRefused, match="memory://lost is empty, and its local memory://local holds 1"):
                await session.resume()

    run(act)


def test_the_sweep_of_home_leaves_what_may_be_brought_there() -> None:
    """A sweep that was planned before and is carried out late must not delete what was brought meanwhile."""

    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        failing = Failing("home", home)
        session = Session(failing, local=nearer)
        await resumed(session)
        await session.saved(1)
        failing.dead_keys = "manifest"
        await session.refused(2)
        await session.abandon()
        assert any("-step-2-" in key for key in await keys(home, "data/"))
        faulty = FaultyStorage(home)
        zombie = Session(faulty, local=nearer)
        await zombie.service.ownership.view()
        await zombie.tidied()
        assert not any(request.startswith("delete") and "-step-2-" in request for request in faulty.requests)
        await zombie.abandon()

    run(act)


def test_the_sweep_of_home_would_delete_it_if_it_were_any_root(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, ownership, "self._is_supplied or self._home is not None", "self._home is not None")
    with pytest.raises(AssertionError, match="assert not True"):
        test_the_sweep_of_home_leaves_what_may_be_brought_there()


def test_a_service_that_takes_the_place_of_a_crashed_one_numbers_above_the_local_tier() -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = Failing("home", inner)
        first = Session(home, local=nearer)
        await resumed(first)
        await first.saved(1)
        home.is_dead = True
        await first.refused(2)
        await first.abandon()
        home.is_dead = False
        async with Session(home, local=nearer, former=first) as second:
            record = await second.saved(3)
            assert record.checkpoint is not None
            assert record.checkpoint.seq == 3
            assert second.log.of(TierFailed) == []
        assert await steps(inner) == [1, 3]
        assert (await steps(nearer))[-1] == 3
        await checked(nearer)

    run(act)


def test_a_local_tier_that_does_not_answer_is_no_reason_not_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, "LOOK", 0.01)
    monkeypatch.setattr(bringing, "LOOK", 0.01)

    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        await trained(home, inner, 1)
        nearer = FaultyStorage(inner)
        for number in range(2):
            nearer.pause(number)
        async with Session(home, local=nearer) as session:
            assert latest(await resumed(session)) == 1
            await session.saved(2)
        assert await steps(home) == [1, 2]

    run(act)


def test_a_mirror_gets_what_the_local_tier_brought_home() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        mirror = MemoryStorage("mirror")
        await ahead(home, nearer, 3)
        async with Session(home, local=nearer, mirror=mirror) as session:
            assert latest(await resumed(session)) == 3
            assert isinstance(await session.save(4), Committed)
        assert (await steps(mirror))[-1] == 4
        await checked(mirror)
        assert (await digests(home)).items() >= (await digests(mirror)).items()

    run(act)


def test_metrics_that_come_late_reach_the_local_tier() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        async with Session(home, local=nearer) as session:
            await session.saved(1)
            await session.service.record(1, {"loss": 0.5})
        assert (await Catalog(nearer).listing()).checkpoints[0].metrics == {"loss": 0.5}
        assert await digests(nearer) == await digests(home)

    run(act)


class Windowed(Session):
    """Its snapshots are there once."""

    def _ticket(self, *arguments: Any) -> Ticket:
        ticket = super()._ticket(*arguments)
        ticket.watermark.through_window(lambda start, end: None)
        return ticket


def test_what_goes_through_a_window_is_in_the_root_alone_and_that_is_said_once() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        async with Windowed(home, local=nearer) as session:
            for step in (1, 2):
                await session.saved(step)
        assert await steps(home) == [1, 2]
        assert await keys(nearer) == []
        (fallback,) = session.log.of(Fallback)
        assert fallback.feature == "local"
        assert session.landed == []

    run(act)


def test_a_rejected_save_that_landed_is_said_to_have() -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = Failing("home", inner)
        async with Session(home, local=nearer) as session:
            await session.saved(1)
            home.dead_keys = "commits"
            assert isinstance(await session.save(2), Rejected)
            assert [landed.record.checkpoint.step for landed in session.landed] == [1, 2]
            home.dead_keys = ""

    run(act)


def test_a_save_after_a_failure_of_the_local_tier_is_whole_in_both() -> None:
    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        nearer = Failing("local", inner)
        async with Session(home, local=nearer) as session:
            await session.saved(2)
            nearer.is_dead = True
            await session.saved(3)  # writes what the next one would share
            nearer.is_dead = False
            await session.saved(4)
            assert [event.step for event in session.log.of(TierFailed)] == [3]
        assert await steps(inner) == [2, 4]
        await checked(inner)
        await checked(home)

    run(act)


def test_after_a_resume_nothing_is_shared_that_was_read_in_one_of_the_tiers_only() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        await trained(home, nearer, 1)
        await spoil(home, 1)  # a resume reads the sound one, which is nearer
        async with Session(home, local=nearer) as session:
            await session.go_on(await session.resume())
            await session.saved(2)
        catalog = Catalog(home)
        await verify(catalog, (await catalog.listing()).checkpoints[-1])

    run(act)


def test_a_partial_one_that_did_not_come_home_is_brought_after_the_newest_whole_one() -> None:
    """And never becomes the latest: whoever resumes gets the whole one, unless it asks."""

    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = Failing("home", inner)
        session = Session(home, local=nearer)
        await resumed(session)
        await session.saved(1)
        home.is_dead = True
        for step in (2, 3):
            await session.refused(step)
        for step in (4, 5):
            await session.refused(step, partial=("optimizer",))
        await session.abandon()
        home.is_dead = False
        async with Session(home, local=nearer) as session:
            listing = await session.resume()
            assert [c.step for c in listing.candidates()] == [3, 1]
            assert [c.step for c in listing.candidates(partial=True)] == [5, 3, 1]
        assert [event.step for event in session.log.of(TierDurable)] == [3, 5]
        assert await steps(inner) == [1, 3, 5]
        await checked(inner)
        async with Session(home, local=nearer) as session:
            assert latest(await resumed(session)) == 3
            assert session.log.of(TierDurable) == []
            await session.saved(6)
        assert await leftovers(inner) == []

    run(act)


def test_a_partial_one_is_brought_alone_where_home_has_every_whole_one() -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = Failing("home", inner)
        session = Session(home, local=nearer)
        await resumed(session)
        await session.saved(1)
        home.is_dead = True
        await session.refused(2, partial=("optimizer",))
        await session.abandon()
        home.is_dead = False
        async with Session(home, local=nearer) as session:
            listing = await session.resume()
            assert [c.step for c in listing.candidates(partial=True)] == [2, 1]
            assert latest(listing) == 1

    run(act)


def test_what_is_not_to_be_had_any_more_stays_so_whatever_fails_on_its_way_home_after_that() -> None:
    async def act(home: MemoryStorage, nearer: MemoryStorage) -> None:
        async with Session(home, local=nearer) as session:
            near = session.service._local
            assert near is not None
            near.failed(1, RunRefused("another run's"))
            near.failed(2, TransientError("cannot be read"))
            assert [event.is_final for event in session.log.of(TierFailed)] == [True, True]
            await session.saved(3)
        assert await steps(nearer) == []
        assert await steps(home) == [3]

    run(act)


# -- a disk that is full ---------------------------------------------------------------------------------------


def _disk(monkeypatch: pytest.MonkeyPatch, nearer: MemoryStorage, snapshots: float) -> None:
    """From now on the local tier is a disk with room for so many snapshots, and small things beside them."""
    size = image(changing(1))[0].size

    def free(storage: Storage) -> int:
        packs = sum(len(data) for key, data in nearer._objects.items() if key.endswith(".safetensors"))
        return int(snapshots * size) - packs

    monkeypatch.setattr(room, "free", free)


def test_a_disk_without_room_keeps_the_newest_and_says_what_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = Failing("home", inner)
        async with Session(home, local=nearer, tensors=changing) as session:
            await session.saved(1)
            home.is_dead = True
            for step in range(2, 12):
                if step == 6:
                    _disk(monkeypatch, nearer, 5.5)
                await session.refused(step)
                assert (await steps(nearer))[-1] == step
            assert await steps(nearer) == [8, 9, 10, 11]
            assert len([key for key in await keys(nearer) if key.endswith(".safetensors")]) == 4
            home.is_dead = False
        given_up = [
            event.step for event in session.log.of(Pruned) if event.tier == "local" and "no room" in event.reason
        ]
        assert given_up == [2, 3, 4, 5, 6, 7]
        assert sum(event.given_up for event in session.log.of(Ahead)) == 6
        assert "(step 2), which the root has not got, is given up there: newer ones are kept" in caplog.text
        await checked(nearer, changing)
        async with Session(home, local=nearer, tensors=changing) as session:
            assert latest(await resumed(session)) == 11
        assert await steps(inner) == [1, 11]

    run(act)


def test_what_is_on_its_way_home_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = FaultyStorage(inner)
        session = Session(home, local=nearer, tensors=changing)
        await session.saved(1)
        _disk(monkeypatch, nearer, 3.5)
        held = home.pause(len(home.requests) + 1)  # in the middle of the copy
        saves = [asyncio.create_task(session.save(2))]
        assert await held.reached(saves[0])
        for step in (3, 4, 5, 6, 7):
            saves.append(asyncio.create_task(session.save(step)))
            await landed(session, step)
        assert await steps(nearer) == [2, 5, 6, 7]
        held.release()
        answers = await asyncio.gather(*saves)
        assert [isinstance(answer, Committed) for answer in answers] == [True, False, False, True, True, True]
        lost = answers[1]
        assert isinstance(lost, Rejected)
        assert "step 3 was given up on the local tier before the root had it" in str(lost.error)
        await session.close()
        assert await steps(inner) == [1, 2, 5, 6, 7]
        await checked(inner, changing)

    run(act)
