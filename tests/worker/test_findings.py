"""Findings: what one process found damaged, retention of the next one knows; and what is said falsely costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import StorageDenied
from asyncckpt.events import LOCAL, Damaged, Leftover, Listeners
from asyncckpt.format.findings import Damage, Finding, among
from asyncckpt.retention import RetentionPolicy
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage, UploadInfo
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker.commitlog import keeping, ownership, sweep
from asyncckpt.worker.commitlog.keeping import Keeping
from asyncckpt.worker.commitlog.offline import drop
from tests.tiers.test_mirroring import told
from tests.worker.drive import Session, checked, drive, keys, run, steps, three
from tests.worker.mutants import mutate
from tests.worker.stores import damage

DAMAGE = Damage("content", "a test says so", "me", 0)


async def found(storage: Storage) -> list[int]:
    """The numbers of what is noted as damaged."""
    return sorted(finding.seq for finding in among(await keys(storage, "user/")))


async def note(storage: Storage, seq: int) -> Finding:
    """What another process does that finds this checkpoint damaged."""
    finding = Finding.of((await Catalog(storage).listing()).find(f"{seq:08d}"))
    await storage.put(finding.key, [DAMAGE.encode()])
    return finding


async def would_go(storage: Storage, policy: RetentionPolicy) -> list[int]:
    """What a process that has found nothing out by itself would prune."""
    planned = await Keeping(storage, policy, None, Listeners(())).preview(await Catalog(storage).listing())
    return [removal.seq for removal in planned.removed]


async def rotten(store: Storage) -> None:
    """The steps 1, 2, 3, of which the newest has rotted; a training that found it was killed before it saved."""
    await three(store)
    newest = (await Catalog(store).listing()).checkpoints[-1]
    await damage(store, next(key for key in await keys(store, newest.folder) if key.endswith(".json")))
    session = Session(store)
    await session.resume()
    await session.found_damaged(3)
    await session.service.go_on(2, {3}, named=False)
    await session.abandon()


def test_what_a_killed_process_found_is_not_what_the_next_one_keeps_in_place_of_the_sound() -> None:
    async def act(store: MemoryStorage) -> None:
        await rotten(store)
        assert await found(store) == [3]
        assert await would_go(store, RetentionPolicy(last=1)) == [1]
        async with Session(store, keep=2) as session:
            await session.resume()
            await session.service.go_on(2, (), named=False)
            await session.saved(4)
            assert await steps(store) == [2, 3, 4], "the damaged one takes the place of none"
            await session.saved(5)
            assert await steps(store) == [3, 4, 5]
        assert await found(store) == [3]

    run(act)


class Looking(MemoryStorage):
    """Begins to look for what is unfinished, and goes on once the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.looks, self.go = asyncio.Event(), asyncio.Event()

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        self.looks.set()
        await self.go.wait()
        async for upload in super().uploads(prefix):
            yield upload


async def noted_meanwhile(store: Looking) -> list[int]:
    """What is noted while the sweep looks, which would take a note that is half written for one left unfinished."""
    store.go.set()
    await three(store)
    store.looks.clear()
    store.go.clear()
    async with Session(store) as session:
        await session.resume()
        await store.looks.wait()
        noting = asyncio.create_task(session.found_damaged(2))
        for _ in range(100):  # turns of a loop on which nothing waits for anything else
            await asyncio.sleep(0)
        before = await found(store)
        store.go.set()
        await noting
        assert await found(store) == [2]
    return before


def test_nothing_is_noted_while_the_sweep_looks_for_what_is_unfinished() -> None:
    assert drive(noted_meanwhile(Looking())) == []


def test_what_would_be_noted_too_soon_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, ownership, "await self.sweep_planned()  # which would", "pass  # which would")
    assert drive(noted_meanwhile(Looking())) == [2]


def test_what_lies_in_the_root_says_what_was_found_and_by_whom() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        catalog = Catalog(store)
        finding = await note(store, 2)
        assert await catalog.damage(finding) == DAMAGE
        listing = await catalog.listing()
        assert [info.damaged for info in listing.infos()] == [False, True, False]
        for which in ("latest", 2):
            assert (await catalog.named(which))[1].damaged is (which == 2)
        await damage(store, finding.key)
        assert await catalog.damage(finding) is None
        assert (await catalog.listing()).infos()[1].damaged, "the key says it"
        await note(store, 3)
        assert (await catalog.named("latest"))[1].damaged

    run(act)


def test_a_finding_is_of_the_checkpoint_with_its_manifest_and_of_no_other() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        other = Finding(3, "0" * 32)
        await store.put(other.key, [DAMAGE.encode()])
        assert not any(info.damaged for info in (await Catalog(store).listing()).infos())
        assert await would_go(store, RetentionPolicy(last=1)) == [1, 2]
        async with Session(store) as session:
            await session.resume()
            await session.tidied()
            assert await keys(store, "user/") == [], "it is of nothing that is listed"

    run(act)


def test_what_is_said_of_something_gone_is_swept_and_what_is_said_of_the_listed_stays() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        for seq in (1, 2):
            await note(store, seq)
        ahead = Finding(9, "0" * 32)  # of one that is on its way, as far as this writer knows
        await store.put(ahead.key, [DAMAGE.encode()])
        async with Session(store, resumed=False, overwrite=True) as session:
            await session.saved(1)
            await session.tidied()
            assert session.log.of(Leftover) == [], "it is known as what it is"
            assert await found(store) == [1, 2, 9], "they were listed when it was planned"
        async with Session(store) as session:
            await session.resume()
            await session.tidied()
        assert await found(store) == [9]

    run(act)


def test_whoever_only_reads_writes_nothing_until_it_takes_the_run() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        finding = Finding.of((await Catalog(store).listing()).find(2))
        async with Session(store, keep=1) as session:
            before = await keys(store)
            await session.service.damaged("home", finding, DAMAGE)
            assert await keys(store) == before
            await session.saved(4)
            assert (await steps(store), await found(store)) == ([2, 4], [2])

    run(act)


def test_what_nobody_saved_after_is_told_at_the_end_and_by_a_fenced_writer_never() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        checkpoints = (await Catalog(store).listing()).checkpoints
        first, second = Session(store), Session(store)
        await first.resume()
        first.service.keeping.found[Finding.of(checkpoints[0])] = DAMAGE
        await first.close()
        assert await found(store) == [1]
        fenced = Session(store)
        await fenced.resume()
        await second.resume()
        await second.saved(4)
        await fenced.refused(5)
        await fenced.service.damaged("home", Finding.of(checkpoints[1]), DAMAGE)
        await fenced.close()
        await second.close()
        assert await found(store) == [1]

    run(act)


def test_a_note_that_cannot_be_left_is_told_kept_in_mind_and_tried_again() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        gated = GatedStorage(store)
        gated.fail("put", "user/*", lambda: StorageDenied(13, "Permission denied"), times=2)
        async with Session(gated, keep=1) as session:
            await session.resume()
            await session.found_damaged(2)
            await session.saved(4)
            assert [event.what for event in session.log.of(Leftover)] == [
                "the note that checkpoint 00000002 is damaged"
            ] * 2
            assert (await steps(store), await found(store)) == ([2, 4], [])
            await session.saved(5)
            assert (await steps(store), await found(store)) == ([2, 5], [2])

    run(act)


def test_what_was_taken_back_is_forgotten_by_whoever_found_it_too() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store, keep=1) as session:
            await session.resume()
            await session.found_damaged(2)
            await session.saved(4)
            assert await steps(store) == [2, 4]
            await store.delete(await keys(store, "user/"))
            await session.saved(5)
            assert await steps(store) == [5]

    run(act)


def test_a_service_that_takes_the_place_of_a_dead_one_knows_what_that_could_not_say() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        gated = GatedStorage(store)
        gated.fail("put", "user/*", lambda: StorageDenied(13, "Permission denied"), times=1)
        session = Session(gated, keep=1)
        await session.resume()
        await session.found_damaged(2)
        await session.abandon()
        async with Session(gated, keep=1, former=session) as session:
            await session.saved(4)
            assert (await steps(store), await found(store)) == ([2, 4], [2])

    run(act)


@pytest.mark.parametrize("seqs", [(1,), (3,), (1, 2, 3)])
def test_a_false_note_keeps_more_and_a_prune_by_hand_removes_nothing_for_it(seqs: tuple[int, ...]) -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        before = set(await would_go(store, RetentionPolicy(last=1)))
        for seq in seqs:
            await note(store, seq)
        assert set(await would_go(store, RetentionPolicy(last=1))) < before
        planned = await drop(store, {1: "x", 2: "x"}, Listeners(()), SYSTEM_CLOCK)
        assert [removal.seq for removal in planned.removed] == [seq for seq in (1, 2) if seq not in seqs]
        await checked(store)

    run(act)


# -- other tiers -----------------------------------------------------------------------------------------------


def test_damage_that_a_copy_meets_at_home_is_noted_at_home() -> None:
    async def act(home: MemoryStorage) -> None:
        mirror = MemoryStorage()
        async with Session(home) as session:
            record = await session.saved(1)
        assert record.checkpoint is not None
        await damage(home, record.checkpoint.packs[0].key)
        async with Session(home, mirror=mirror) as session:
            await session.resume()
            await session.service.go_on(1, (), named=False)
            await told(session, Damaged)
            await session.saved(2)
        assert (await found(home), await found(mirror)) == ([1], [])

    run(act)


@pytest.mark.parametrize("tier", [LOCAL, "mirror"])
def test_a_copy_that_was_found_damaged_is_noted_in_its_own_tier(tier: str) -> None:
    async def act(home: MemoryStorage) -> None:
        other = MemoryStorage()
        tiers = {"local" if tier == LOCAL else "mirror": other}
        async with Session(home, **tiers) as session:
            for step in (1, 2):
                await session.saved(step)
        before = await steps(other)
        async with Session(home, keep=1, **tiers) as session:
            await session.resume()
            await session.found_damaged(2, tier)
            await session.service.go_on(2, (), named=False)
            for step in (3, 4, 5):
                await session.saved(step)
        assert (await found(home), await found(other)) == ([], [2])
        assert 2 in before
        assert 2 in await steps(other)
        assert await steps(home) == [5]

    run(act)


# -- each line is missed ---------------------------------------------------------------------------------------

MUTANTS = {
    "a fenced writer tells all the same": (ownership, "and not self.is_lost:", "and True:"),
    "what others found counts for nothing": (keeping, "wishes.damaged.union(self.found)", "set(self.found)"),
    "a finding is of whatever has its number": (keeping, " and f == Finding.of(checkpoint)", ""),
    "what could not be said is forgotten": (keeping, "wishes.damaged.union(self.found)", "set(wishes.damaged)"),
    "what was said is never forgotten": (keeping, "self.found.pop(finding, None)", "pass"),
    "the sweep knows no findings": (sweep, "mark is None and finding is None and not", "mark is None and not"),
    "the sweep takes what is said of the listed": (sweep, "if said.seq not in view.listed:", "if True:"),
}
TESTS = (
    test_what_a_killed_process_found_is_not_what_the_next_one_keeps_in_place_of_the_sound,
    test_a_finding_is_of_the_checkpoint_with_its_manifest_and_of_no_other,
    test_what_is_said_of_something_gone_is_swept_and_what_is_said_of_the_listed_stays,
    test_a_note_that_cannot_be_left_is_told_kept_in_mind_and_tried_again,
    test_what_nobody_saved_after_is_told_at_the_end_and_by_a_fenced_writer_never,
    test_what_was_taken_back_is_forgotten_by_whoever_found_it_too,
)


@pytest.mark.parametrize(("module", "old", "new"), MUTANTS.values(), ids=MUTANTS)
def test_a_missing_line_is_noticed(monkeypatch: pytest.MonkeyPatch, module: object, old: str, new: str) -> None:
    mutate(monkeypatch, module, old, new)
    noticed = 0
    for test in TESTS:
        try:
            test()
        except AssertionError:
            noticed += 1
    assert noticed
