"""Announcements: where a rank writes, and what became of it, from words as long as there are any, then from storage."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import RankMissing, SaveFailed, TransientError
from asyncckpt.format.contents import Contents
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.report import Report
from asyncckpt.storage.base import Storage
from asyncckpt.storage.memory import MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker.announcements import Announcements, Said, attempt_json, directory_in
from asyncckpt.worker.job import Layout, SaveJob
from asyncckpt.worker.landed import nonce_of
from asyncckpt.worker.presence import Presence, own
from asyncckpt.worker.ranks import SingleRank, attempt_key, job_id, landed_key, left_key, verdict_key
from asyncckpt.worker.ticket import Ticket
from asyncckpt.worker.watermark import Watermark

if sys.platform != "linux":
    pytest.skip("worker processes need Linux", allow_module_level=True)

WRITER = "f" * 32
SESSION = "session"
JOB = SaveJob("own", 7, 100, None, {}, 0, "arena", Layout((), {}, {}, 0, 0), rank=1, world=2)


def _there() -> Presence:
    """Of a rank 0 that lives, and is seen to."""
    presence = own("root")
    assert presence is not None
    return presence


def _dead() -> Presence:
    """Of one that is seen to be dead, and has left no worker."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Presence(_there().machine, "root", process.pid, 0)


class Rank1(SingleRank):
    """Rank 1 of two; what rank 0 has said, a test says."""

    rank, world, deadline, session = 1, 2, 60.0, SESSION

    def __init__(self, presence: Presence | None, *, is_cut_off: bool = False, is_alone: bool = False) -> None:
        self.said: dict[str, Said] = {}
        self.seen = presence
        self.is_cut_off = is_cut_off or is_alone
        self.is_alone = is_alone

    def peek(self, key: str) -> Said | None:
        if self.is_cut_off:
            raise ConnectionError("refused")
        return self.said.get(key)

    def presence(self, rank: int) -> Presence | None:
        return self.seen


def attempt(ordinal: int = 7, *, seq: int = 4, step: int = 100, inc: int = 2) -> DataDirectory:
    """The folder of an attempt of rank 0."""
    return DataDirectory(seq, step, inc, nonce_of(job_id(SESSION, ordinal)))


class Store(MemoryStorage):
    """What rank 0's worker process has written."""

    async def announce(self, *attempts: DataDirectory) -> None:
        for found in attempts:
            report = Report(WRITER, found.seq, found.nonce, found.step, 0, 2, "", Contents((), {}, {}, {}))
            await self.put(found.report(0, 2), [report.encode()])


def ticket(*, repeated: bool = False) -> Ticket:
    return Ticket(JOB, memoryview(b""), Watermark(), lambda _: None, repeated=repeated)


def run(
    storage: Storage,
    ranks: Rank1,
    act: Callable[[Announcements], Coroutine[Any, Any, Any]],
    local: Storage | None = None,
) -> Any:
    async def main() -> Any:
        with ThreadPoolExecutor(1) as threads:
            return await act(Announcements(Catalog(storage), ranks, threads, local))

    return asyncio.run(main())


def found(ranks: Rank1, *attempts: DataDirectory) -> Said:
    """What rank 1 takes for the attempt, where rank 0's worker has written these."""
    storage = Store()

    async def act(announcements: Announcements) -> Said:
        await storage.announce(*attempts)
        return await announcements.attempt(ticket())

    said: Said = run(storage, ranks, act)
    return said


@pytest.mark.parametrize(
    "ranks",
    [
        pytest.param(lambda: Rank1(_there(), is_alone=True), id="its trainer is dead"),
        pytest.param(lambda: Rank1(_there(), is_cut_off=True), id="the words' store is dead"),
        pytest.param(lambda: Rank1(_dead()), id="rank 0's trainer is dead"),
    ],
)
def test_where_nothing_is_said_any_more_the_attempt_is_found_in_the_storage(ranks: Callable[[], Rank1]) -> None:
    said = found(ranks(), attempt())
    assert said == attempt_json(WRITER, attempt())
    assert directory_in(said) == attempt()


def test_words_come_before_what_is_stored_and_a_last_word_is_heard() -> None:
    ranks = Rank1(_dead())
    ranks.said[attempt_key(7)] = {"declined": {"by_step": 8}}
    assert found(ranks, attempt()) == {"declined": {"by_step": 8}}


def test_the_newest_attempt_counts_and_those_of_other_saves_do_not() -> None:
    others = [attempt(6, seq=9), attempt(7, seq=9, step=99), DataDirectory(9, 100, 9, "0badcafe")]
    said = found(Rank1(_there(), is_alone=True), attempt(seq=4), attempt(seq=5, inc=3), *others)
    assert directory_in(said) == attempt(seq=5, inc=3)


@pytest.mark.parametrize("newest", ["local", "home"])
def test_an_attempt_is_found_on_the_local_tier_too_and_the_newest_of_both_counts(newest: str) -> None:
    stores = {"home": Store(), "local": Store()}

    async def act(announcements: Announcements) -> Said:
        for tier, store in stores.items():
            await store.announce(attempt(seq=5 if tier == newest else 4))
        return await announcements.attempt(ticket())

    said = run(stores["home"], Rank1(_there(), is_alone=True), act, stores["local"])
    assert said == attempt_json(WRITER, attempt(seq=5), newest)


def test_a_local_tier_that_cannot_be_read_hides_no_attempt() -> None:
    storage, local = Store(), GatedStorage(Store())
    local.fail("list", "*", lambda: TransientError("the disk is away"))

    async def act(announcements: Announcements) -> Said:
        await storage.announce(attempt())
        return await announcements.attempt(ticket())

    assert run(storage, Rank1(_there(), is_alone=True), act, local) == attempt_json(WRITER, attempt())


def test_that_it_has_landed_is_heard_before_what_became_of_it_and_only_by_who_waits_for_it() -> None:
    ranks = Rank1(_there())
    ranks.said = {landed_key(7): {"landed": "record"}, verdict_key(7): {"error": "the root is away"}}

    async def act(announcements: Announcements) -> list[Said | None]:
        return [await announcements.outcome(JOB, attempt(), lands=lands) for lands in (True, False)]

    assert run(Store(), ranks, act) == [{"landed": "record"}, {"error": "the root is away"}]


def test_an_attempt_counts_once_rank_0_has_reported() -> None:
    storage = Store()
    gated = GatedStorage(storage)
    looks = gated.hold("get", "data/*")

    async def act(announcements: Announcements) -> Said:
        await storage.put(attempt().pack(0, 2, 0), [b"pack"])
        heard = asyncio.ensure_future(announcements.attempt(ticket()))
        await asyncio.to_thread(looks.wait_reached)
        again = gated.hold("get", "data/*")
        looks.open()
        await asyncio.to_thread(again.wait_reached)  # it looked in vain, and goes on
        await storage.announce(attempt())
        again.open()
        return await heard

    assert run(gated, Rank1(_there(), is_alone=True), act) == attempt_json(WRITER, attempt())


def test_a_save_that_rank_0_has_passed_over_is_not_waited_for() -> None:
    assert found(Rank1(_there(), is_alone=True), attempt(9, seq=5, step=300)) == {"declined": {"by_step": None}}


def test_who_has_no_worker_will_write_nothing() -> None:
    with pytest.raises(RankMissing, match="rank 0 cannot be heard any more: refused") as caught:
        found(Rank1(None, is_cut_off=True), attempt())
    assert caught.value.ranks == (0,)


def test_whose_processes_are_dead_will_write_nothing_more() -> None:
    with pytest.raises(RankMissing, match="no attempt at step 100 from rank 0: its process is dead"):
        found(Rank1(_dead(), is_alone=True))


def test_a_deadline_ends_the_wait_for_what_is_not_seen_to_be_dead() -> None:
    ranks = Rank1(Presence("another machine", "root", 1, 0), is_alone=True)
    ranks.deadline = 0.05
    with pytest.raises(RankMissing, match=r"no attempt at step 100 from rank 0 within 0\.05 s"):
        found(ranks)


def test_a_snapshot_that_was_given_up_is_not_waited_for() -> None:
    given_up = ticket()
    given_up.watermark.abort(SaveFailed("incomplete"))
    with pytest.raises(SaveFailed, match="incomplete"):
        run(Store(), Rank1(_there(), is_alone=True), lambda announcements: announcements.attempt(given_up))


def test_who_repeats_a_save_hears_first_how_it_ended() -> None:
    ranks = Rank1(_there())
    ranks.said = {attempt_key(7): attempt_json(WRITER, attempt()), verdict_key(7): {"record": "text"}}
    again = run(Store(), ranks, lambda announcements: announcements.attempt(ticket(repeated=True)))
    assert again == {"record": "text"}
    assert found(ranks) == attempt_json(WRITER, attempt())


def test_a_newer_attempt_is_an_outcome_and_the_same_one_is_none() -> None:
    ranks = Rank1(_there())
    ranks.said = {attempt_key(7): attempt_json(WRITER, attempt()), left_key(0): {}}
    with pytest.raises(RankMissing, match="it has closed its checkpointer"):
        run(Store(), ranks, lambda announcements: announcements.outcome(JOB, attempt()))
    newer = attempt_json(WRITER, attempt(seq=5, inc=3))
    ranks.said[attempt_key(7)] = newer
    assert run(Store(), ranks, lambda announcements: announcements.outcome(JOB, attempt())) == newer


def test_nobody_waits_for_an_outcome_that_nobody_can_be_told() -> None:
    ranks = Rank1(_there(), is_alone=True)
    assert run(Store(), ranks, lambda announcements: announcements.outcome(JOB, attempt())) is None


def test_who_sees_rank_0_die_uncommitted_says_so() -> None:
    with pytest.raises(RankMissing, match="no verdict at step 100 from rank 0: its process is dead"):
        run(Store(), Rank1(_dead()), lambda announcements: announcements.outcome(JOB, attempt()))


def test_a_process_is_seen_by_those_on_its_machine_alone() -> None:
    here = _there()
    assert (here.trainer, here.is_orphaned, here.is_gone) == (os.getpid(), False, False)
    dead = _dead()
    assert (dead.is_orphaned, dead.is_gone) == (True, True)
    for machine in ("another", None):
        elsewhere = Presence(machine, dead.root, dead.trainer, dead.started)
        assert (elsewhere.is_orphaned, elsewhere.is_gone) == (False, False)
