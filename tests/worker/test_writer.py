"""Opening a run, and what each kind of record does to it; the numbers are those of the protocol's rules."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.marking import mark
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import (
    CheckpointCorruptError,
    Fenced,
    HeadDamaged,
    OutcomeUnknown,
    RunContended,
    RunRefused,
    UnsupportedFormat,
)
from asyncckpt.format import names, record
from asyncckpt.format.runfile import decode
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.requests import FaultyStorage
from asyncckpt.worker.commitlog.writer import OPEN_ATTEMPTS, open_run
from tests.worker.drive import Session, checked, content, keys, me, opened, run, steps, three
from tests.worker.stores import Giving, Reacting, damage

# -- 1, 2: the run file and names ------------------------------------------------------------------------------


@pytest.mark.parametrize("gives", ["whole", "torn"])
def test_rule_1_the_way_of_committing_is_fixed_by_the_first_writer(gives: Any) -> None:
    async def act(store: MemoryStorage) -> None:
        writer = await opened(store)
        first = bytes(await store.get(names.RUN))
        assert writer.run.publish == decode(first, "").publish == gives
        store.gives = "whole"
        await opened(store)
        assert bytes(await store.get(names.RUN)) == first

    run(act, Giving(gives))


def test_rule_1_a_run_of_exclusive_creates_is_not_continued_where_there_are_none() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        before = await keys(store)
        store.gives = "none"
        with pytest.raises(RunRefused, match="created exclusively"):
            await opened(store)
        assert await keys(store) == before

    run(act, Giving("whole"))


def test_rule_1_a_store_without_exclusive_creates_is_fenced_and_stays_so_where_there_are_some() -> None:
    async def act(store: MemoryStorage) -> None:
        first = await opened(store)
        store.gives = "whole"
        second = await opened(store)
        assert (first.run.mode, second.run.mode) == ("fenced", "fenced")
        assert (first.inc, second.inc) == (1, 2)
        with pytest.raises(Fenced, match="incarnation 2"):
            await first.close()

    run(act, Giving("none"))


def test_rule_1_a_run_of_whole_records_is_not_continued_where_they_may_tear() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        store.gives = "torn"
        before = await keys(store)
        with pytest.raises(RunRefused, match="atomic"):
            await opened(store)
        assert await keys(store) == before

    run(act, Giving("whole"))


def test_rule_1_the_loser_of_two_first_starts_takes_over_the_run_file_of_the_winner() -> None:
    async def act(store: MemoryStorage) -> None:
        first = await opened(store, "a")
        await store.delete([names.record_key(1)])

        async def begin(inner: Storage) -> None:
            if not await inner.head(names.RUN):
                await inner.put(names.RUN, [first.run.encode()])

        await store.delete([names.RUN])
        second = await opened(Reacting(store, "probe", begin), "b")
        assert second.run == first.run

    run(act)


def test_rule_1_a_run_file_torn_before_anything_was_committed_is_begun_anew() -> None:
    async def act(store: MemoryStorage) -> None:
        await store.put(names.RUN, [b""])
        assert (await Catalog(store).listing()).head is None
        writer = await opened(store)
        assert await Catalog(store).run() == writer.run

    run(act, Giving("torn"))


@pytest.mark.parametrize("gives", ["whole", "torn"])
@pytest.mark.parametrize("content", [b'{"lr": 0.1}', b"hello", b"x" * 100_000, b'{"created": 1'])
def test_rule_1_a_file_of_somebody_else_that_is_named_as_the_run_file_is_left_alone(gives: Any, content: bytes) -> None:
    async def act(store: MemoryStorage) -> None:
        await store.put(names.RUN, [content])
        for attempt in (opened(store), Catalog(store).head(), Catalog(store).listing(), Catalog(store).named("latest")):
            with pytest.raises(RunRefused, match=r"run\.json is not a run file of asyncckpt.* move it away"):
                await attempt
        assert bytes(await store.get(names.RUN)) == content
        assert await keys(store) == [names.RUN]

    run(act, Giving(gives))


@pytest.mark.parametrize("content", [b"", b"{"])
def test_rule_1_a_run_file_is_begun_anew_only_where_a_crash_may_have_torn_it(content: bytes) -> None:
    async def act(store: MemoryStorage) -> None:
        await store.put(names.RUN, [content])
        if await store.probe() == "torn":
            assert (await opened(store)).run.publish == "torn"
        else:
            with pytest.raises(RunRefused, match="not a run file"):
                await opened(store)
            assert bytes(await store.get(names.RUN)) == content

    for gives in ("whole", "torn"):
        run(act, Giving(gives))


def test_rule_1_a_run_file_of_a_newer_format_is_told_as_such() -> None:
    async def act(store: MemoryStorage) -> None:
        await store.put(names.RUN, [b'{"format": 99}'])
        for attempt in (opened(store), Catalog(store).listing()):
            with pytest.raises(UnsupportedFormat, match=r"run\.json has format version 99.*upgrade"):
                await attempt

    run(act)


def test_rule_1_a_damaged_run_file_of_a_run_with_commits_is_an_alarm() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await damage(store, names.RUN)
        for attempt in (opened(store), Catalog(store).listing()):
            with pytest.raises(CheckpointCorruptError, match=r"run\.json"):
                await attempt

    run(act)


def test_rule_1_commits_without_a_run_file_are_not_an_empty_root() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await store.delete([names.RUN])
        for attempt in (opened(store), Catalog(store).listing()):
            with pytest.raises(RunRefused, match=r"no run\.json"):
                await attempt

    run(act)


@pytest.mark.parametrize("gives", ["whole", "torn"])
@pytest.mark.parametrize("lost", [names.COMMITS, "commits/ and run.json"])
def test_rule_13_data_without_any_record_is_no_empty_root(gives: Any, lost: str) -> None:
    """What opens a run is on record before its first data is."""

    async def act(store: MemoryStorage) -> None:
        await three(store)
        await store.delete([*await keys(store, names.COMMITS), *([names.RUN] if lost != names.COMMITS else [])])
        before = await keys(store)
        catalog = Catalog(store)
        for attempt in (opened(store), catalog.head(), catalog.listing(), catalog.named("latest"), catalog.named(1)):
            with pytest.raises(RunRefused, match="data/ holds checkpoints, but commits/ no record of them: put a copy"):
                await attempt
        async with Session(store, overwrite=True, resumed=False) as session:
            assert isinstance(await session.refused(1), RunRefused)
        assert await keys(store) == before

    run(act, Giving(gives))


def test_rule_13_what_is_no_folder_of_ours_under_data_says_nothing() -> None:
    async def act(store: MemoryStorage) -> None:
        await store.put("data/train.csv", [b"1,2"])
        await store.put("data/00000001-step-1/train.csv", [b"1,2"])
        assert (await Catalog(store).listing()).head is None
        assert (await opened(store)).inc == 1

    run(act)


@pytest.mark.parametrize("began", [True, False])
def test_rule_13_data_of_somebody_who_opened_the_run_meanwhile_is_no_alarm(began: bool) -> None:
    async def act(store: MemoryStorage) -> None:
        async def save(inner: Storage) -> None:
            if not saved:
                async with Session(inner) as session:
                    saved.append(await session.saved(1))

        saved: list[record.Record] = []
        if began:
            await store.put(names.RUN, [(await opened(MemoryStorage())).run.encode()])
        assert (await Catalog(Reacting(store, "list commits/", save)).listing()).head is None
        assert (await opened(store)).inc == 2

    run(act)


def test_rule_13_it_costs_a_listing_only_where_there_is_no_record() -> None:
    async def act(store: MemoryStorage) -> None:
        for listings in (1, 0):
            faulty = FaultyStorage(store)
            await Catalog(faulty).listing()
            assert sum(r.startswith("list data/") for r in faulty.requests) == listings
            faulty = FaultyStorage(store)
            await opened(faulty)
            assert sum(r.startswith("list data/") for r in faulty.requests) == 2 * listings

    run(act)


def test_rule_2_no_name_is_ever_written_twice_but_the_hints() -> None:
    async def act(store: MemoryStorage) -> None:
        faulty = FaultyStorage(store)
        for steps_ in ((1, 2), (2, 3), (3, 4)):
            async with Session(faulty, keep=1) as session:
                for step in steps_:
                    await session.saved(step)
        written = [r.split()[1] for r in faulty.requests if r.startswith(("put", "create"))]
        once = [key for key in written if key != names.LATEST]
        assert len(once) == len(set(once)) > 20

    run(act)


def test_rule_2_two_writers_at_the_same_number_and_step_have_different_folders() -> None:
    async def act(store: MemoryStorage) -> None:
        first = await opened(store, "a")
        second = await opened(store, "b")
        mine, other = first.attempt(7), second.attempt(7)
        assert (mine.seq, mine.step) == (other.seq, other.step) == (1, 7)
        assert mine.key != other.key
        assert second.attempt(7).key != other.key

    run(act)


# -- 3, 4: the catalog -----------------------------------------------------------------------------------------


def test_rule_3_a_record_that_is_merely_present_means_nothing() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        forgotten = bytes(await store.get(names.record_key(2)))
        async with Session(store, keep=1) as session:
            await session.saved(4)
            await session.saved(5)
        await store.put(names.record_key(2), [forgotten])
        assert await steps(store) == [5]
        assert (await opened(store)).checkpoints[0].step == 5

    run(act)


def test_rule_3_latest_is_what_the_head_says_and_not_the_highest_number() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        writer = await opened(store)
        await writer.roll_back(2)
        listing = await Catalog(store).listing()
        assert listing.find("latest").step == 2
        assert [c.step for c in listing.checkpoints] == [1, 2, 3]

    run(act)


@pytest.mark.parametrize("keep", [None, 1, 2])
def test_rule_4_the_live_set_only_shrinks_but_for_the_own_slot(keep: int | None) -> None:
    async def act(store: MemoryStorage) -> None:
        async def remember(inner: Storage) -> None:
            chain.append((await Catalog(inner).head()) or pytest.fail("no head"))

        chain: list[record.Record] = []
        watched = Reacting(store, "create commits/", remember)
        for steps_ in ((1, 2, 3), (4, 3), (9,)):
            async with Session(watched, keep=keep) as session:
                await session.resume()
                for step in steps_:
                    await session.saved(step)
        assert len(chain) == 12
        for former, later in itertools.pairwise(chain):
            assert set(later.live) <= set(former.live) | {later.slot}
            assert later.previous == (former.slot, former.digest)
            assert (later.slot in later.live) == (later.kind == "checkpoint")

    run(act)


# -- 10: open --------------------------------------------------------------------------------------------------


def test_rule_10_an_empty_root_is_opened_at_slot_1_as_incarnation_1() -> None:
    async def act(store: MemoryStorage) -> None:
        writer = await opened(store)
        assert (writer.inc, writer.head.slot, writer.head.kind) == (1, 1, "open")
        assert (list(writer.head.live), writer.head.latest, writer.next_seq) == ([], None, 1)
        assert await keys(store) == ["commits/0000000001.json", "run.json"]

    run(act)


def test_rule_10_an_existing_run_is_carried_over() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store, keep=2)
        head = await Catalog(store).head()
        assert head is not None
        writer = await opened(store)
        assert (writer.head.slot, writer.inc) == (head.slot + 1, head.inc + 1)
        assert (writer.head.live, writer.head.latest, writer.next_seq) == (head.live, 3, 4)
        assert writer.head.latest_inc == 1
        assert [c.step for c in writer.checkpoints] == [2, 3]
        assert writer.parent == 3

    run(act)


def test_rule_10_a_slot_that_somebody_else_got_is_followed_by_another_look() -> None:
    async def act(store: MemoryStorage) -> None:
        async def overtake(inner: Storage) -> None:
            if not taken:
                taken.append(await opened(inner, "b"))

        taken: list[Any] = []
        faulty = Reacting(store, "list commits/", overtake)
        writer = await opened(faulty, "a")
        assert (taken[0].inc, writer.inc, writer.head.slot) == (1, 2, 2)

    run(act)


def test_rule_10_an_open_into_a_hole_below_the_head_is_noticed_and_repeated() -> None:
    """A retention that ran between the look and the create had freed the slot."""

    async def act(store: MemoryStorage) -> None:
        async def go_on(inner: Storage) -> None:
            if not gone_on:
                async with Session(inner, keep=1) as session:
                    gone_on.extend([await session.saved(step) for step in (11, 12, 13)])

        gone_on: list[record.Record] = []
        async with Session(store, keep=1) as session:
            await session.saved(1)
        faulty = Reacting(store, "get commits/", go_on)
        writer = await opened(faulty, "a")
        creates = [r for r in faulty.requests if r.startswith("create commits")]
        assert creates == ["create commits/0000000004.json", f"create {names.record_key(writer.head.slot)}"]
        assert writer.head.slot == max(await Catalog(store).slots()) > 8
        assert [c.step for c in writer.checkpoints] == [13]

    run(act)


def test_rule_10_who_is_overtaken_again_and_again_gives_up() -> None:
    async def act(store: MemoryStorage) -> None:
        async def overtake(inner: Storage) -> None:
            await opened(inner, "b")

        faulty = Reacting(store, "create commits/", overtake)
        with pytest.raises(RunContended, match="own"):
            await opened(faulty, "a")
        assert sum(r.startswith("create commits/") for r in faulty.requests) == OPEN_ATTEMPTS

    run(act)


def test_rule_10_a_head_that_vanished_after_the_look_is_looked_for_again() -> None:
    async def act(store: MemoryStorage) -> None:
        async def prune(inner: Storage) -> None:
            if not gone:
                gone.append(await opened(inner, "b"))
                await inner.delete([names.record_key(gone[0].head.slot - 1)])

        gone: list[Any] = []
        await three(store)
        writer = await opened(Reacting(store, "list commits/", prune), "a")
        assert writer.inc == gone[0].inc + 1
        assert [c.step for c in writer.checkpoints] == [1, 2, 3]

    run(act)


def test_rule_10_an_opener_who_has_to_go_on_from_its_own_record_takes_nothing_back() -> None:
    async def act(store: MemoryStorage) -> None:
        mine = await opened(store, "a")
        other = await opened(store, "b")
        with pytest.raises(Fenced, match=rf"incarnation {other.inc} .*this one, {mine.inc},"):
            await open_run(Catalog(store), me("a"), 0, after=mine.inc)
        assert await Catalog(store).slots() == [1, 2]

    run(act)


def test_rule_12_a_restarted_writer_opens_anew_above_itself() -> None:
    async def act(store: MemoryStorage) -> None:
        mine = await opened(store, "a")
        again = await open_run(Catalog(store), me("a"), 0, after=mine.inc)
        assert (again.inc, again.head.slot) == (2, 2)

    run(act)


def test_rule_12_what_a_resume_offers_is_the_view_of_the_own_open_record() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store) as session:
            listing = await session.resume()
            assert listing.head == await Catalog(store).head()
            assert [c.step for c in listing.checkpoints] == [1, 2, 3]
            assert listing.head is not None
            assert listing.head.kind == "open"

    run(act)


# -- 24, 25: rollback, close, damage ---------------------------------------------------------------------------


def test_rule_24_a_rollback_is_a_record_and_what_is_saved_then_is_a_branch_of_it() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store) as session:
            await session.resume()
            await session.service.go_on(1, (), named=True)
            head = await Catalog(store).head()
            assert head is not None
            assert (head.kind, head.latest, head.next_seq) == ("rollback", 1, 4)
            branch = await session.saved(2)
            assert branch.checkpoint is not None
            assert (branch.checkpoint.seq, branch.checkpoint.parent) == (4, 1)
        listing = await checked(store)
        assert [c.seq for c in listing.checkpoints] == [1, 3, 4]
        assert [c.seq for c in listing.candidates()] == [4, 1]

    run(act)


def test_rule_24_a_rollback_is_remembered_by_the_next_start() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await (await opened(store, "a")).roll_back(1)
        writer = await opened(store, "b")
        assert (writer.head.latest, writer.parent, writer.next_seq) == (1, 1, 4)

    run(act)


def test_rule_24_going_on_from_the_latest_or_after_a_fallback_writes_no_rollback() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        faulty = FaultyStorage(store)
        async with Session(faulty) as session:
            await session.resume()
            await session.service.go_on(3, (), named=True)
            await session.service.go_on(2, (3,), named=False)
        assert sum(r.startswith("create commits/") for r in faulty.requests) == 2

    run(act)


def test_rule_24_after_a_rollback_of_unknown_outcome_the_run_is_opened_anew() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        faulty = FaultyStorage(store)
        async with Session(faulty) as session:
            await session.resume()
            number = len(faulty.requests) + 1
            faulty.refuse(number)  # the look after the record
            with pytest.raises(OutcomeUnknown):
                await session.service.go_on(1, (), named=True)
            assert faulty.requests[number] == "list commits/"
            assert (await session.saved(9)).inc == 3
        assert await steps(store) == [1, 2, 3, 9]

    run(act)


def test_a_closing_record_says_that_nothing_is_in_flight() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        head = await Catalog(store).head()
        assert head is not None
        assert (head.kind, head.latest, len(head.live)) == ("close", 3, 3)
        assert (await opened(store)).head.previous == (head.slot, head.digest)

    run(act)


def test_rule_25_a_damaged_head_is_an_alarm_to_readers_and_writers() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        before = await keys(store)
        await damage(store, names.record_key(max(await Catalog(store).slots())))
        for attempt in (opened(store), Catalog(store).listing()):
            with pytest.raises(HeadDamaged, match="damaged"):
                await attempt
        assert await keys(store) == before

    run(act)


async def beheaded(store: MemoryStorage, before: int = 0) -> None:
    """Damage the newest record, and so many before it."""
    for slot in (await Catalog(store).slots())[-1 - before :]:
        await damage(store, names.record_key(slot))


def test_rule_25_with_a_damaged_head_what_is_on_record_is_found_by_id_step_and_tag() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await mark(Catalog(store), 1, "paper", SYSTEM_CLOCK)
        await beheaded(store)
        catalog = Catalog(store)
        for which, step in (("00000002", 2), ("2", 2), (3, 3), ("paper", 1)):
            checkpoint, info = await catalog.named(which)
            assert (checkpoint.step, info.step, info.is_best) == (step, step, False)
            assert await catalog.is_listed(checkpoint)
        for which in ("latest", "best", 7, "00000007", "thesis"):
            with pytest.raises(HeadDamaged):
                await catalog.named(which)

    run(act)


def test_rule_25_of_two_records_of_one_checkpoint_number_the_newer_counts() -> None:
    """The older is in a hole, where a writer that was overtaken has created it."""

    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1) as session:
            for step in (1, 2, 3):
                await session.saved(step)
        newer = await Catalog(store).read(4)
        assert newer.checkpoint is not None
        await store.put(
            names.record_key(2), [replace(newer, slot=2, checkpoint=replace(newer.checkpoint, step=8)).encode()]
        )
        await beheaded(store)
        found = await Catalog(store).listing_for("3")
        assert [c.step for c in found.checkpoints] == [3]

    run(act)


def test_rule_25_the_alarm_says_what_is_on_record() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            for step in range(1, 13):
                await session.saved(step)
        await beheaded(store, before=1)
        with pytest.raises(
            HeadDamaged, match=r"'00000011'\) or .*@00000011; on record are \.\.\., 00000002, .*, 00000011$"
        ):
            await Catalog(store).listing()
        for slot in (await Catalog(store).slots())[:-2]:
            await damage(store, names.record_key(slot))
        with pytest.raises(HeadDamaged, match=r"put a copy of it back\. No other record tells of a checkpoint$"):
            await Catalog(store).named(5)

    run(act)


def test_rule_25_a_record_in_the_wrong_slot_is_damage() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        top = max(await Catalog(store).slots())
        await store.put(names.record_key(top + 1), [await store.get(names.record_key(top))])
        with pytest.raises(HeadDamaged, match=f"holds the record of slot {top}"):
            await opened(store)

    run(act)


def test_a_lost_live_record_is_reported_and_stays_live() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        for harm in (damage(store, names.record_key(2)), store.delete([names.record_key(3)])):
            await harm
        listing = await Catalog(store).listing()
        assert sorted(listing.lost) == [2, 3]
        assert [c.step for c in listing.checkpoints] == [3]
        async with Session(store, keep=1) as session:
            assert sorted((await session.resume()).lost) == [2, 3]
            await session.saved(4)
            await session.saved(5)
        listing = await Catalog(store).listing()
        assert sorted(listing.lost) == [2, 3]
        assert [c.step for c in listing.checkpoints] == [5]

    run(act)


def test_every_step_is_what_it_was_saved_as() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await checked(store)
        assert content(1) != content(2)
        pack = next(key for key in await keys(store) if key.endswith(".safetensors"))
        data = bytearray(await store.get(pack))
        data[-1] ^= 1
        await store.put(pack, [bytes(data)])
        with pytest.raises(CheckpointCorruptError, match="digest"):
            await checked(store)

    run(act)
