"""What is pruned, swept or read while saves are on their way from the local tier to the root, at any of their requests.

Neither tier ever lists what is not all there, and the local one drops nothing before the root has it, or what is newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import CheckpointCorruptError, Fenced, StorageError
from asyncckpt.events import HOME, Durable, Event, Listeners, Pruned, TierFailed
from asyncckpt.format import marks
from asyncckpt.format.marks import Mark
from asyncckpt.format.record import Checkpoint
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage, UploadInfo
from asyncckpt.testing.requests import FaultyStorage
from asyncckpt.worker import homing, local, service
from asyncckpt.worker.commitlog import offline
from asyncckpt.worker.job import Committed, Landed, Rejected
from asyncckpt.worker.ticket import Reply, Ticket
from tests.worker.drive import Log, Session, changing, checked, drive, leftovers, steps
from tests.worker.mutants import mutate

from .test_local import _disk, landed, latest, resumed, run, trained

Meddle = Callable[[Session, Storage, Storage, Awaitable[object]], Awaitable[object]]
"""Given a session, the root, the local tier, and what ends with the saves."""


async def _listed(storage: Storage) -> list[Checkpoint]:
    return list((await Catalog(storage).listing()).checkpoints)


async def _turns(count: int = 500) -> None:
    """Let everybody else go on as far as they get."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- at every request ------------------------------------------------------------------------------------------


async def _pruned_here(session: Session, home: Storage, nearer: Storage, saves: Awaitable[object]) -> None:
    await session.service.prune(dry_run=False)


async def _asked_to_drop_everything(session: Session, home: Storage, nearer: Storage, saves: Awaitable[object]) -> None:
    """In both tiers, also what is only on its way, by a process that wants the room."""
    seqs = {c.seq for store in (home, nearer) for c in await _listed(store)}
    for store in (home, nearer):
        await offline.ask(store, sorted(seqs), "somebody", SYSTEM_CLOCK)


async def _read_here(session: Session, home: Storage, nearer: Storage, saves: Awaitable[object]) -> None:
    """What is the latest now, for as long as the saves take; the record of one may have dropped it already."""
    (held,) = (await _listed(home))[-1:]
    with session.service.hold(held.seq):
        await saves
        await checked(home)


async def _on_the_way(meddle: Meddle, number: int) -> bool:
    """Stop at one request to the root while three saves are on their way there, and `meddle`; whether there was it."""
    home, nearer = MemoryStorage("home"), MemoryStorage("local")
    await trained(home, nearer, 1, 2)
    faulty = FaultyStorage(home)
    session = Session(faulty, local=nearer, keep=1)
    await resumed(session)
    await session.saved(3)
    pause = faulty.pause(len(faulty.requests) + number)
    saves = asyncio.gather(*(session.saved(step) for step in (4, 5, 6)))
    if stopped := await pause.reached(saves):
        await checked(home)
        await checked(nearer)
        meddling = asyncio.ensure_future(meddle(session, home, nearer, saves))
        await _turns()
        pause.release()
        await asyncio.gather(saves, meddling)
    await saves
    pause.release()  # what it stops may come after the last answer
    await session.close()
    for store in (home, nearer):
        await checked(store)
        assert (await steps(store))[-1] == 6
    _assert_dropped_in_their_turn(session.log.events)
    for step in (7, 8):
        await trained(home, nearer, step, keep=1)
    for store in (home, nearer):
        await checked(store)
        assert await leftovers(store) == []
    return stopped


def _assert_dropped_in_their_turn(events: list[Event]) -> None:
    """The local tier has dropped nothing that was newer than all that the root had."""
    at_home = 2  # from the training before
    for event in events:
        if isinstance(event, Durable):
            at_home = max(at_home, event.seq)
        elif isinstance(event, Pruned) and event.tier != HOME:
            assert event.seq <= at_home


@pytest.mark.parametrize("meddle", [_pruned_here, _asked_to_drop_everything, _read_here])
def test_whoever_prunes_or_reads_at_any_request_on_the_way_home_finds_all_whole(meddle: Meddle) -> None:
    numbers = 0
    while drive(_on_the_way(meddle, numbers)):
        numbers += 1
    assert numbers > 20


async def _taken_on_the_way(number: int) -> bool:
    """Stop at one request to the root: another process takes it, drops all but the newest, and deletes that at once."""
    home, nearer = MemoryStorage("home"), MemoryStorage("local")
    await trained(home, nearer, 1, 2)
    faulty = FaultyStorage(home)
    session = Session(faulty, local=nearer)
    await resumed(session)
    await session.saved(3)
    pause = faulty.pause(len(faulty.requests) + number)
    saves = asyncio.gather(*(session.save(step) for step in (4, 5, 6)))
    if stopped := await pause.reached(saves):
        *older, _ = await _listed(home)
        await offline.drop(home, {c.seq: "not wanted" for c in older}, Listeners([Log()]), SYSTEM_CLOCK)
        left = await steps(home)
        await checked(home)
        pause.release()
        for answer in await saves:
            assert isinstance(answer, Committed) or isinstance(answer.error, Fenced), faulty.requests[-1]
        # A record that stood before the run was taken is what the other process found, and nothing came after it.
        assert await steps(home) == left
        await checked(home)
    await saves
    pause.release()
    await session.close()
    newest = max(await steps(home) + await steps(nearer))
    async with Session(home, local=nearer, keep=2) as again:
        assert latest(await resumed(again)) == newest
        await checked(home)
    await checked(nearer)
    for step in (newest + 1, newest + 2):
        await trained(home, nearer, step, keep=1)
    for store in (home, nearer):
        await checked(store)
        assert await leftovers(store) == []
    return stopped


def test_a_root_that_another_process_prunes_on_the_way_stays_as_that_left_it_and_the_next_start_brings_the_rest() -> (
    None
):
    numbers = 0
    while drive(_taken_on_the_way(numbers)):
        numbers += 1
    assert numbers > 20


def test_who_is_fenced_on_the_way_would_delete_what_the_other_lists_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, homing, "if not self._root.ownership.is_lost:", "if self._root is not None:")
    with pytest.raises(CheckpointCorruptError, match="is missing"):
        test_a_root_that_another_process_prunes_on_the_way_stays_as_that_left_it_and_the_next_start_brings_the_rest()


def test_what_was_asked_to_go_would_be_dropped_before_the_root_has_it_if_it_were_not_spared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutate(monkeypatch, local, "self.tier.spare(c.seq for c in self._ahead(home, own))", "self.tier.spare(())")
    with pytest.raises(AssertionError):
        test_whoever_prunes_or_reads_at_any_request_on_the_way_home_finds_all_whole(_asked_to_drop_everything)


# -- what a save may share -------------------------------------------------------------------------------------


class Mixed(Session):
    """Its snapshots of the steps in `windowed` are there once."""

    windowed: tuple[int, ...] = ()

    def _ticket(self, step: int, *arguments: Any) -> Ticket:
        ticket = super()._ticket(step, *arguments)
        if step in self.windowed:
            ticket.watermark.through_window(lambda start, end: None)
        return ticket


class Deleting(MemoryStorage):
    """Deletes nothing before it may."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reached = asyncio.Event()
        self.may = asyncio.Event()

    async def delete(self, keys: Sequence[str]) -> None:
        if any(key.endswith(".safetensors") for key in keys):
            self.reached.set()
            await self.may.wait()
        await super().delete(keys)


async def _saved_while_home_deletes() -> Deleting:
    """The root, once it has deleted what was useless there when the last save was on its way."""
    home, nearer = Deleting("home"), MemoryStorage("local")
    async with Mixed(home, local=nearer, keep=1) as session:
        session.windowed = (4,)
        await session.saved(3)
        await session.saved(4)  # past the local tier, and in the root it takes the place of the one before it
        await session.service.record(4, {"loss": 1.0})
        await home.reached.wait()
        await session.saved(5)  # and does not wait for the deletion
        home.may.set()
    assert await steps(home) == [5]
    return home


def test_a_save_shares_nothing_that_the_root_is_about_to_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        await checked(await _saved_while_home_deletes())

    drive(act())
    mutate(monkeypatch, local, "self.share_nothing()", "self._listeners")
    with pytest.raises(CheckpointCorruptError):
        drive(act())


def test_after_a_save_that_went_past_the_local_tier_the_next_one_there_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert drive(_shared_after(windowed=(4,))) == [True, False, True]
    mutate(monkeypatch, local, "self.share_nothing()", "self._listeners")
    assert drive(_shared_after(windowed=(4,))) == [True, True, True]


def test_after_a_partial_one_the_next_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drive(_shared_after(partial=(4,))) == [True, False, True]
    mutate(monkeypatch, local, "own.base = None if checkpoint.partial else", "own.base =")
    assert drive(_shared_after(partial=(4,))) == [True, True, True]


def test_after_a_rollback_the_next_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drive(_shared_after(back_to=2)) == [True, False, True]
    mutate(monkeypatch, service, "self._local.share_nothing()", "self._local.tier")
    assert drive(_shared_after(back_to=2)) == [True, True, True]


async def _shared_after(
    *, windowed: tuple[int, ...] = (), partial: tuple[int, ...] = (), back_to: int | None = None
) -> list[bool]:
    """Whether the saves 4 (where that is on the local tier: else 3), 5 and 6 there share anything with earlier ones."""
    home, nearer = MemoryStorage("home"), MemoryStorage("local")
    found = []
    async with Mixed(home, local=nearer) as session:
        session.windowed = windowed
        await resumed(session)
        for step in (1, 2, 3, 4, 5, 6):
            if step == 5 and back_to is not None:
                (checkpoint,) = [c for c in await _listed(home) if c.step == back_to]
                await session.service.go_on(checkpoint.seq, (), named=True)
            await session.saved(step, partial=("optimizer",) if step in partial else ())
            newest = (await _listed(nearer))[-1]
            found.append(not all(pack.key.startswith(newest.folder + "/") for pack in newest.packs))
        await checked(home)
        await checked(nearer)
    return found[-3:]


# -- a sweep ---------------------------------------------------------------------------------------------------


class Drafting(MemoryStorage):
    """Puts of packs show in `uploads` until they are over, which is not before a sweep has looked; one that is aborted
    fails.
    """

    def __init__(self, name: str, inner: MemoryStorage) -> None:
        super().__init__(name)
        self._objects = inner._objects
        self._under_way: dict[str, str] = {}
        self.swept = asyncio.Event()

    async def put(self, key: str, *arguments: Any, **options: Any) -> Any:
        if not key.endswith(".safetensors"):
            return await super().put(key, *arguments, **options)
        self._under_way[key] = key
        await self.swept.wait()
        if self._under_way.pop(key, None) is None:
            raise StorageError(f"the upload of {key} is gone")
        return await super().put(key, *arguments, **options)

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        await _turns()  # whoever does not wait for this has begun meanwhile
        for key in list(self._under_way):
            yield UploadInfo(key, key)

    async def abort(self, upload: UploadInfo) -> None:
        self._under_way.pop(upload.key, None)


async def _goes_on_after_a_crash() -> Committed | Rejected:
    """How a save ends that had landed when its worker died, whose successor sweeps."""
    inner, nearer = MemoryStorage("home"), MemoryStorage("local")
    faulty = FaultyStorage(inner)
    first = Session(faulty, local=nearer)
    await resumed(first)
    await first.saved(1)
    faulty.pause(len(faulty.requests))
    answers: asyncio.Queue[Reply] = asyncio.Queue()
    ticket = first._ticket(2, {}, None, answers.put_nowait)
    first.service.submit(ticket)
    while not isinstance(await answers.get(), Landed):
        pass
    await first.abandon()
    home = Drafting("home", inner)
    async with Session(home, local=nearer, former=first) as session:
        session.service.submit(replace(ticket.without_memory(), repeated=True))
        await _turns(50)  # the run is taken
        await session.tidied()
        home.swept.set()
        while not isinstance(answer := await answers.get(), Committed | Rejected):
            pass
    await checked(inner)
    return answer


def test_the_sweep_of_a_worker_s_successor_ends_no_copy_of_what_had_landed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(drive(_goes_on_after_a_crash()), Committed)
    mutate(monkeypatch, homing, "await self._root.ownership.sweep_planned()", "await asyncio.sleep(0)")
    rejected = drive(_goes_on_after_a_crash())
    assert isinstance(rejected, Rejected)
    assert "is gone" in str(rejected.error)


# -- a disk without room ---------------------------------------------------------------------------------------


def test_what_is_being_read_or_was_pinned_is_not_given_up_for_want_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = FaultyStorage(inner)
        session = Session(home, local=nearer, tensors=changing)
        await session.saved(1)
        held = home.pause(len(home.requests) + 1)
        saves = [asyncio.create_task(session.save(2))]
        assert await held.reached(saves[0])
        for step in (3, 4, 5):
            saves.append(asyncio.create_task(session.save(step)))
            await landed(session, step)
        third, fourth, _ = (await _listed(nearer))[-3:]
        await nearer.put(Mark(fourth.seq).key, [marks.encode("me", 0)])
        with session.service.hold(third.seq):
            _disk(monkeypatch, nearer, 3.5)
            for step in (6, 7, 8):
                saves.append(asyncio.create_task(session.save(step)))
                await landed(session, step)
            assert await steps(nearer) == [2, 3, 4, 6, 7, 8]
            await checked(nearer, changing)
        held.release()
        await asyncio.gather(*saves)
        await session.close()
        await checked(inner, changing)

    run(act)


# -- what another process removed ------------------------------------------------------------------------------


async def _pruned_before_the_first_save() -> Session:
    """Somebody prunes the local tier, which the last training has closed, while the next has begun and not saved."""
    home, nearer = MemoryStorage("home"), MemoryStorage("local")
    await trained(home, nearer, 1, 2, 3)
    async with Session(home, local=nearer) as session:
        await resumed(session)
        older, _ = await _listed(nearer)
        head = await Catalog(nearer).head()
        await offline.drop(nearer, {older.seq: "not wanted"}, Listeners([Log()]), SYSTEM_CLOCK, on=head)
        assert await steps(nearer) == [3]
        await session.saved(4)
        assert await steps(nearer) == [3, 4]
    await trained(home, nearer, 5)
    assert await steps(home) == [1, 2, 3, 4, 5]
    for store in (home, nearer):
        await checked(store)
        assert await leftovers(store) == []
    return session


def test_who_prunes_a_tier_that_is_about_to_be_saved_to_takes_it_from_nobody() -> None:
    assert drive(_pruned_before_the_first_save()).log.of(TierFailed) == []


def test_it_would_be_taken_by_a_number_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, offline, 'run.mode != "exclusive"', "True")
    with pytest.raises(AssertionError, match=r"assert \[3\] == \[3, 4\]"):
        drive(_pruned_before_the_first_save())


def test_what_another_process_took_from_the_local_tier_is_not_called_damaged() -> None:
    async def act(inner: MemoryStorage, nearer: MemoryStorage) -> None:
        home = FaultyStorage(inner)
        session = Session(home, local=nearer)
        await resumed(session)
        await session.saved(1)
        pause = home.pause(len(home.requests) + 1)
        saves = [asyncio.create_task(session.save(2))]
        assert await pause.reached(saves[0])
        for step in (3, 4):
            saves.append(asyncio.create_task(session.save(step)))
            await landed(session, step)
        gone = {c.seq: "not wanted" for c in (await _listed(nearer))[:-1] if c.step == 3}
        await offline.drop(nearer, gone, Listeners([Log()]), SYSTEM_CLOCK)
        pause.release()
        answers = await asyncio.gather(*saves)
        await session.close()
        assert [isinstance(answer, Committed) for answer in answers] == [True, False, True]
        lost = answers[1]
        assert isinstance(lost, Rejected)
        assert "step 3 was removed from the local tier, by another process, before the root had it" in str(lost.error)
        assert session.log.of(TierFailed) == []
        await checked(inner)
        assert await steps(inner) == [1, 2, 4]

    run(act)
