"""The mirror: whole, sound and in order whatever happens to either store, and never in the way of a save."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import CheckpointCorruptError, RunRefused, StorageDenied, TransientError
from asyncckpt.events import Damaged, Event, Fallback, Leftover, Pruned, TierDurable, TierFailed
from asyncckpt.format import names
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.requests import FaultyStorage
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker import copying, mirroring, tier
from asyncckpt.worker.commitlog import home as home_
from asyncckpt.worker.commitlog import keeping, ownership, sweep
from asyncckpt.worker.job import Committed
from tests.worker.drive import Session, changing, checked, drive, keys, leftovers, steps
from tests.worker.mutants import mutate
from tests.worker.stores import Ignoring, Reacting, damage

E = TypeVar("E", bound=Event)
Act = Callable[[MemoryStorage, MemoryStorage], Coroutine[Any, Any, None]]


def run(act: Act, home: MemoryStorage | None = None, mirror: MemoryStorage | None = None) -> None:
    drive(act(home or MemoryStorage("home"), mirror or MemoryStorage("mirror")))


async def told(session: Session, kind: type[E], count: int = 1) -> list[E]:
    """Return once there are so many events of `kind`."""
    for _ in range(10_000):
        if len(found := session.log.of(kind)) >= count:
            return found
        await asyncio.sleep(0)
    raise AssertionError(f"{len(session.log.of(kind))} {kind.__name__}, not {count}")


async def mirrored(session: Session, step: int) -> None:
    """Return once the mirror has `step`."""
    for _ in range(10_000):
        if any(event.step == step for event in session.log.of(TierDurable)):
            return
        await asyncio.sleep(0)
    raise AssertionError(f"step {step} is not in the mirror: {session.log.of(TierFailed)}")


async def digests(storage: Storage) -> dict[int, str]:
    return {c.step: c.manifest.digest for c in (await Catalog(storage).listing()).checkpoints}


def test_B20_what_is_durable_at_home_is_copied_byte_by_byte_under_the_same_names() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        async with Session(home, mirror=mirror) as session:
            for step in range(1, 6):
                await session.saved(step)
                await mirrored(session, step)
        assert await digests(mirror) == await digests(home)
        assert len((await checked(mirror)).checkpoints) == 5
        for key in await keys(home, "data/"):
            assert await mirror.get(key) == await home.get(key)
        assert await leftovers(mirror) == []
        ours, theirs = await Catalog(home).run(), await Catalog(mirror).run()
        assert ours is not None
        assert theirs is not None
        assert ours.id == theirs.id

    run(act)


def test_B20_each_tier_keeps_by_its_own_retention_and_says_which_it_is() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        async with Session(home, mirror=mirror, keep=2) as session:
            for step in range(1, 6):
                await session.saved(step)
                await mirrored(session, step)
        assert await steps(home) == await steps(mirror) == [4, 5]
        for where in ("home", "mirror"):
            assert [event.step for event in session.log.of(Pruned) if event.tier == where] == [1, 2, 3]
        await checked(mirror)
        assert await leftovers(mirror) == await leftovers(home) == []

    run(act)


class Held(MemoryStorage):
    """A mirror that takes packs only while it is open."""

    def __init__(self) -> None:
        super().__init__("mirror")
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()

    async def put(self, key: str, *arguments: Any, **options: Any) -> Any:
        if key.endswith(".safetensors"):
            self.reached.set()
            await self.gate.wait()
        return await super().put(key, *arguments, **options)


def test_H12_a_slow_mirror_gets_the_newest_with_all_that_it_shares_though_home_has_dropped_what_it_came_from() -> None:
    async def act(home: MemoryStorage, _: MemoryStorage) -> None:
        mirror = Held()
        async with Session(home, mirror=mirror, keep=1) as session:
            await session.saved(1)
            await mirror.reached.wait()
            for step in (2, 3, 4, 5):
                await session.saved(step)  # none of them waits
            await session.tidied()
            mirror.gate.set()
            assert await steps(home) == [1, 5]  # the one that is being copied is held
            await mirrored(session, 5)
            await session.saved(6)
        assert await steps(home) == [6]
        assert [event.step for event in session.log.of(TierDurable)] == [1, 5, 6]
        assert session.log.of(TierFailed) == []
        assert await steps(mirror) == [6]
        await checked(mirror)
        assert await leftovers(mirror) == []

    run(act)


def test_H12_a_copy_without_what_it_shares_is_never_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "for number, pack in enumerate(contents.packs):", "for number, pack in enumerate(contents.packs[:1]):"
    mutate(monkeypatch, copying, old, new)
    with pytest.raises(AssertionError, match="the base of step 5 is gone: no listed checkpoint names"):
        test_H12_a_slow_mirror_gets_the_newest_with_all_that_it_shares_though_home_has_dropped_what_it_came_from()


def test_what_is_being_copied_would_be_dropped_at_home_if_it_were_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, keeping, "reading=self.reading.keys() | self.spared,", "reading=(),")
    with pytest.raises(AssertionError, match=r"assert \[5\] == \[1, 5\]"):
        test_H12_a_slow_mirror_gets_the_newest_with_all_that_it_shares_though_home_has_dropped_what_it_came_from()


async def _trained(home: Storage, mirror: Storage, first: int, count: int = 2) -> Session:
    """A session that goes on from what is there, saves, and ends in order; no save may fail."""
    async with Session(home, mirror=mirror, keep=2) as session:
        await session.go_on(await session.resume())
        for step in range(first, first + count):
            assert isinstance(await session.save(step), Committed)
            for _ in range(400):  # the mirror has its turn
                await asyncio.sleep(0)
    return session


def _requests() -> int:
    """How many requests the mirror gets in one session that goes on from another."""

    async def act() -> int:
        home, mirror = MemoryStorage(), MemoryStorage()
        await _trained(home, mirror, 1)
        faulty = FaultyStorage(mirror)
        await _trained(home, faulty, 3)
        return len(faulty.requests)

    return drive(act())


@pytest.mark.parametrize(
    ("fault", "store"), [("refuse", MemoryStorage), ("lose_reply", MemoryStorage), ("refuse", Ignoring)]
)
def test_B20_a_mirror_that_fails_at_any_request_harms_no_save_and_catches_up(
    fault: str, store: type[MemoryStorage]
) -> None:
    async def act(number: int) -> None:
        home, mirror = MemoryStorage(), store()
        await _trained(home, mirror, 1)
        faulty = FaultyStorage(mirror)
        getattr(faulty, fault)(number, TransientError)
        session = await _trained(home, faulty, 3)
        assert await steps(home) == [3, 4]
        assert set(await steps(mirror)) >= {event.step for event in session.log.of(TierDurable)}
        await checked(mirror)
        await _trained(home, mirror, 5)
        assert (await steps(mirror))[-1] == 6
        await checked(mirror)
        await _trained(home, mirror, 7)
        assert await leftovers(mirror) == [], faulty.requests[number]

    for number in range(_requests()):
        drive(act(number))


def test_a_kill_at_any_request_to_the_mirror_leaves_one_that_loads_and_the_next_start_goes_on() -> None:
    async def act(number: int) -> None:
        home, mirror = MemoryStorage(), MemoryStorage()
        await _trained(home, mirror, 1)
        faulty = FaultyStorage(mirror)
        pause = faulty.pause(number)
        training = asyncio.create_task(_trained(home, faulty, 3))
        await pause.reached(training)
        await killed()
        await checked(mirror)
        await _trained(home, mirror, 5)
        assert (await steps(mirror))[-1] == (await steps(home))[-1] == 6
        await checked(mirror)
        await _trained(home, mirror, 7)
        assert await leftovers(mirror) == [], faulty.requests[number]

    for number in range(_requests()):
        drive(act(number))


async def killed() -> None:
    """As by SIGKILL: whatever is under way sends nothing more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def test_B20_a_dead_mirror_is_told_of_and_tried_again_without_another_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "_FIRST_PAUSE", 0.001)

    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        mirror = FaultyStorage(inner)
        for number in range(8):
            mirror.refuse(number, lambda: StorageDenied(28, "No space left on device"))
        async with Session(home, mirror=mirror) as session:
            await session.saved(1)
            await asyncio.wait_for(session.service._mirroring._actor, PATIENCE)
        (failed, *_) = session.log.of(TierFailed)
        assert (failed.tier, failed.step, failed.is_final) == ("mirror", 1, False)
        assert isinstance(failed.error, StorageDenied)
        assert await steps(inner) == [1]

    run(act)


def test_a_session_ends_although_its_mirror_stays_dead() -> None:
    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        mirror = FaultyStorage(inner)
        for number in range(1000):
            mirror.refuse(number)
        async with Session(home, mirror=mirror) as session:
            await session.saved(1)
        assert len(mirror.requests) < 20
        assert session.log.of(TierDurable) == []
        assert await steps(home) == [1]

    run(act)


def test_rule_28_another_run_is_never_mixed_into_a_mirror() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        await _trained(home, MemoryStorage(), 1)
        await _trained(mirror, MemoryStorage(), 1)
        before = await digests(mirror)
        async with Session(home, mirror=mirror) as session:
            with pytest.raises(RunRefused, match="holds checkpoints of another run"):
                await session.resume()
            assert isinstance(await session.refused(3), RunRefused)
        assert await digests(mirror) == before

    run(act)


async def set_back(home: MemoryStorage, mirror: MemoryStorage, *lost: int) -> MemoryStorage:
    """A root as it was after steps 1 and 2, while the mirror has got the steps `lost` too."""
    await _trained(home, mirror, 1)
    former = await copied(home)
    async with Session(home, mirror=mirror) as session:
        await session.go_on(await session.resume())
        for step in lost:
            await session.saved(step)
            await mirrored(session, step)
    return former


async def copied(storage: MemoryStorage) -> MemoryStorage:
    copy = MemoryStorage("copy")
    for key in await keys(storage):
        await copy.put(key, [await storage.get(key)])
    return copy


def test_rule_29_what_only_the_mirror_has_is_brought_home_and_gone_on_from() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        former = await set_back(home, mirror, 3, 4)
        async with Session(former, mirror=mirror) as session:
            listing = await session.resume()
            assert listing.candidates()[0].step == 4
            await session.go_on(listing)
            record = await session.saved(5)
            assert record.checkpoint is not None
            assert record.checkpoint.seq == 5
            await mirrored(session, 5)
        assert session.log.of(Fallback) == []
        assert [event.step for event in session.log.of(TierDurable) if event.tier == "home"] == [4]
        assert await steps(former) == [1, 2, 4, 5]
        await checked(former)
        await checked(mirror)
        assert await leftovers(former) == await leftovers(mirror) == []

    run(act)


def test_rule_29_of_what_two_tiers_have_the_newest_is_brought_and_a_copy_that_is_not_sound_is_passed_over() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        nearer = MemoryStorage("local")
        former = await set_back(home, mirror, 3, 4)
        async with Session(home, local=nearer) as session:
            await session.go_on(await session.resume())
            await session.saved(5)
        await damage(nearer, next(key for key in await keys(nearer, "data/") if key.endswith(".safetensors")))
        async with Session(former, local=nearer, mirror=mirror) as session:
            listing = await session.resume()
            assert listing.candidates()[0].step == 4
            assert [(event.step, event.tier) for event in session.log.of(Damaged)] == [(5, "local")]
            await session.go_on(listing)
            assert (await session.saved(9)).checkpoint.seq == 6  # above all that any tier has
        await checked(former)

    run(act)


def test_rule_29_a_branch_that_was_abandoned_stays_in_the_mirror_and_numbers_go_on_above_it() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        former = await set_back(home, mirror, 3, 4, 6, 7)
        for step in (8, 9):
            async with Session(former) as session:  # without the mirror: a branch of its own
                await session.go_on(await session.resume())
                await session.saved(step)
        async with Session(former, mirror=mirror) as session:
            listing = await session.resume()
            assert listing.candidates()[0].step == 9
            await session.go_on(listing)
            record = await session.saved(10)
            assert record.checkpoint is not None
            assert record.checkpoint.seq == 7
            (fallback,) = [event for event in session.log.of(Fallback) if event.feature == "mirror"]
            assert "give memory://mirror as the root to go on from those" in fallback.reason
            await mirrored(session, 10)
        assert await steps(former) == [1, 2, 8, 9, 10]
        assert (await digests(mirror))[10] == (await digests(former))[10]
        await checked(mirror)

    run(act)


def test_rule_29_an_abandoned_branch_would_be_taken_if_only_the_number_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutate(monkeypatch, home_, "if number_of(c) > number and c.seq > newest]", "if c.seq > newest]")
    with pytest.raises(AssertionError, match="assert 7 == 9"):
        test_rule_29_a_branch_that_was_abandoned_stays_in_the_mirror_and_numbers_go_on_above_it()


def test_a_mirror_that_cannot_be_read_from_the_look_on_leaves_the_root() -> None:
    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        former = await set_back(home, inner, 3)
        looked = FaultyStorage(inner)
        async with Session(await copied(former), mirror=looked) as session:
            await session.resume()
        gone = next(number for number, request in enumerate(looked.requests) if "step-3" in request)
        mirror = FaultyStorage(inner)
        for number in range(gone, gone + 50):
            mirror.refuse(number)
        async with Session(former, mirror=mirror) as session:
            listing = await session.resume()
            assert listing.candidates()[0].step == 2
            assert [event.step for event in session.log.of(TierFailed)] == [3]
            await session.go_on(listing)

    run(act)


def test_an_empty_root_whose_mirror_holds_checkpoints_is_never_begun_anew() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        await _trained(home, mirror, 1)
        lost = MemoryStorage("lost")
        async with Session(lost, mirror=mirror) as session:
            with pytest.raises(RunRefused, match=r"memory://lost is empty, and its mirror memory://mirror holds 2"):
                await session.resume()
        assert await keys(lost) == []
        async with Session(mirror) as session:  # the way out that it names
            listing = await session.resume()
            assert [c.step for c in listing.candidates()] == [2, 1]
            await session.go_on(listing)
            await session.saved(3)
        assert await steps(mirror) == [1, 2, 3]
        await checked(mirror)

    run(act)


def test_a_mirror_that_does_not_answer_is_no_reason_not_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, "LOOK", 0.01)

    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        mirror = FaultyStorage(inner)
        pause = mirror.pause(0)
        async with Session(home, mirror=mirror) as session:
            await session.saved(1)
            pause.release()
            await mirrored(session, 1)

    run(act)


def test_a_mirror_that_cannot_create_exclusively_is_kept_with_claims() -> None:
    async def act(home: MemoryStorage, _: MemoryStorage) -> None:
        mirror = Ignoring()
        for first in (1, 3, 5):
            await _trained(home, mirror, first)
        assert await digests(mirror) == await digests(home)
        await checked(mirror)
        assert await leftovers(mirror) == []

    run(act)


@pytest.mark.parametrize("store", [MemoryStorage, Ignoring])
def test_a_mirror_is_taken_anew_under_the_same_number_and_what_it_has_stays(store: type[MemoryStorage]) -> None:
    async def act(number: int) -> int:
        home, inner = MemoryStorage(), store()
        mirror = FaultyStorage(inner)
        async with Session(home, mirror=mirror) as session:
            await session.saved(1)
            await mirrored(session, 1)
            first = len(mirror.requests)
            mirror.refuse(first + number)
            await session.saved(2)
            for _ in range(400):
                await asyncio.sleep(0)
            count = len(mirror.requests) - first
            await session.saved(3)
            await mirrored(session, 3)
        assert {1, 3} <= set(await steps(inner)), mirror.requests[first + number]
        await checked(inner)
        return count

    for number in range(drive(act(1000))):
        drive(act(number))


def test_late_metrics_reach_the_mirror() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        async with Session(home, mirror=mirror, monitor=("loss", "min")) as session:
            for step in (1, 2):
                await session.saved(step, {"loss": float(step)})
                await mirrored(session, step)
            await session.service.record(2, {"loss": 0.5})
        for store in (home, mirror):
            best = (await Catalog(store, ("loss", "min")).listing()).best
            assert best is not None
            assert (best.step, best.metrics) == (2, {"loss": 0.5})

    run(act)


def test_rule_23_after_a_rollback_nothing_is_shared_that_a_tier_may_have_dropped() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        await _trained(home, mirror, 1)
        async with Session(home, mirror=mirror, keep=2) as session:
            listing = await session.resume()
            first = listing.checkpoints[0]
            contents = (await session.service.catalog.manifest(first)).contents
            await session.service.go_on(first.seq, (), named=True, verified=contents)
            record = await session.saved(3)
            assert record.checkpoint is not None
            assert all(pack.key.startswith(record.checkpoint.folder) for pack in record.checkpoint.packs)
            await mirrored(session, 3)
        await checked(mirror)

    run(act)


def test_the_sweep_of_a_mirror_leaves_what_the_next_copy_may_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late one would delete it behind the copy's back."""

    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        await _trained(home, mirror, 1)
        late = Session(home, mirror=mirror)
        planned: list[sweep.SweepPlan] = []

        async def never(plan: sweep.SweepPlan, storage: Storage) -> int:
            if storage is mirror:
                planned.append(plan)
            return 0

        async with Session(home, mirror=FaultyStorage(MemoryStorage())) as session:
            await session.go_on(await session.resume())
            shared = (await session.saved(3)).checkpoint
        assert shared is not None
        for key in [pack.key for pack in shared.packs]:  # brought by one that was killed before its record
            await mirror.put(key, [await home.get(key)])
        with monkeypatch.context() as patch:
            patch.setattr("asyncckpt.worker.commitlog.ownership.carry_out", never)
            await late.go_on(await late.resume())
            await mirrored(late, 3)
            await late.close()
        (plan,) = planned
        assert not {pack.key for pack in shared.packs}.intersection(plan.keys)

    async def restarted(home: MemoryStorage, mirror: MemoryStorage) -> None:
        await _trained(home, mirror, 1)
        await mirror.put("data/00000001-step-1-i1-01234567/rank-00000-of-00001.p0.safetensors", [b"old"])
        await mirror.put("data/00000009-step-9-i1-01234567/rank-00000-of-00001.p0.safetensors", [b"new"])
        await _trained(home, mirror, 3)
        assert [key for key in await keys(mirror, "data/") if "01234567" in key] == [
            "data/00000009-step-9-i1-01234567/rank-00000-of-00001.p0.safetensors"
        ]

    run(restarted)
    run(act)


def test_B20_damage_at_home_is_not_copied_and_the_next_checkpoint_is() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        async with Session(home) as session:
            record = await session.saved(1)
        assert record.checkpoint is not None
        await damage(home, record.checkpoint.packs[0].key)
        async with Session(home, mirror=mirror) as session:
            await session.resume()
            await session.service.go_on(record.checkpoint.seq, (), named=False)
            (damaged,) = await told(session, Damaged)
            assert (damaged.step, damaged.tier) == (1, "home")
            (failed,) = await told(session, TierFailed)
            assert isinstance(failed.error, CheckpointCorruptError)
            await session.saved(2)
            await mirrored(session, 2)
        assert await steps(mirror) == [2]
        await checked(mirror)

    run(act)


@pytest.mark.parametrize("size", [1, 7, 100, 4096, copying.PIECE])
def test_B20_a_copy_checks_every_byte_that_a_checkpoint_holds_in_whatever_pieces_it_comes(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PIECE", size)

    async def act(home: MemoryStorage, _: MemoryStorage) -> None:
        async with Session(home) as session:
            record = await session.saved(1)
        checkpoint = record.checkpoint
        assert checkpoint is not None
        (pack,) = checkpoint.packs
        data = bytes(await home.get(pack.key))
        for at in (0, 4000, len(data) - pack.live, len(data) - 1):
            await home.put(pack.key, [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]])
            target = MemoryStorage()
            with pytest.raises(CheckpointCorruptError, match="does not match its digest at byte"):
                await copying.Copying(Catalog(home), target, mirroring.Pace()).copy(checkpoint, ())
            assert await keys(target) == []
        await home.put(pack.key, [data])
        target = MemoryStorage()
        await copying.Copying(Catalog(home), target, mirroring.Pace()).copy(checkpoint, ())
        assert await target.get(pack.key) == data

    if size > 1:  # byte by byte only the first part
        run(act)


def test_B20_a_manifest_that_is_damaged_between_two_looks_at_it_is_not_brought() -> None:
    async def act(home: MemoryStorage, mirror: MemoryStorage) -> None:
        async with Session(home) as session:
            checkpoint = (await session.saved(1)).checkpoint
        assert checkpoint is not None
        key = checkpoint.manifest.key
        source = Reacting(home, f"get {key}", lambda inner: damage(inner, key))
        with pytest.raises(CheckpointCorruptError, match="is not the manifest that was committed"):
            await copying.Copying(Catalog(source), mirror, mirroring.Pace()).copy(checkpoint, ())
        assert key not in await keys(mirror)

    run(act)


class WithoutManifests(MemoryStorage):
    """Refuses the manifests of the steps that are named, after it has taken their packs."""

    refused: tuple[str, ...] = ("-step-2-",)

    async def put(self, key: str, *arguments: Any, **options: Any) -> Any:
        if key.endswith("manifest.json") and any(part in key for part in self.refused):
            raise TransientError(key)
        return await super().put(key, *arguments, **options)


def test_what_was_brought_for_one_that_was_overtaken_does_not_stay() -> None:
    async def act(home: MemoryStorage, _: MemoryStorage) -> None:
        mirror = WithoutManifests("mirror")
        async with Session(home, mirror=mirror, tensors=changing) as session:
            await session.saved(1)
            await mirrored(session, 1)
            await session.saved(2)
            await told(session, TierFailed)
            assert [key for key in await keys(mirror, "data/") if "-step-2-" in key] != []
            await session.saved(3)
            await mirrored(session, 3)
        assert await steps(mirror) == [1, 3]
        assert await leftovers(mirror) == []

    run(act)


def test_what_happens_in_a_mirror_says_so() -> None:
    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        await inner.put("latest", [b"somebody's"])
        async with Session(home, mirror=inner) as session:
            await session.saved(1)
            await mirrored(session, 1)
        (leftover,) = session.log.of(Leftover)
        assert leftover.tier == "mirror"
        assert names.LATEST in str(leftover.error)

    run(act)


def test_tier_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, tier, "replace(event, tier=self._tier)", "replace(event)")
    with pytest.raises(AssertionError):
        test_what_happens_in_a_mirror_says_so()


def test_rule_28_another_checkpoint_of_the_same_number_is_never_merged() -> None:
    async def act(home: MemoryStorage, inner: MemoryStorage) -> None:
        await _trained(home, inner, 1)
        back = MemoryStorage("back")
        for key in await keys(home):
            await back.put(key, [await home.get(key)])
        await _trained(home, inner, 3, count=1)
        before = await digests(inner)
        for _ in range(2):
            async with Session(back) as session:
                await session.resume()
        mirror = FaultyStorage(inner)
        mirror.refuse(0)  # the look before the start
        async with Session(back, mirror=mirror) as session:
            await session.go_on(await session.resume())
            record = await session.saved(9)
            assert record.checkpoint is not None
            assert record.checkpoint.seq == 3
            (failed,) = await told(session, TierFailed)
            assert "holds another checkpoint under the number 3" in str(failed.error)
            assert failed.is_final
        assert await digests(inner) == before
        await checked(inner)

    run(act)


def test_a_copy_that_is_broken_off_at_any_request_is_made_up_for_by_the_next() -> None:
    async def act(number: int) -> None:
        home, inner = MemoryStorage(), MemoryStorage()
        await _trained(home, inner, 1)
        mirror = FaultyStorage(inner)
        pause = mirror.pause(number)
        async with Session(home, mirror=mirror, keep=2) as session:
            going = asyncio.create_task(_go_on(session))
            if await pause.reached(going) and session.service._mirroring is not None:
                session.service._mirroring.hurry()  # as an emergency does
                for _ in range(10):
                    await asyncio.sleep(0)
            pause.release()
            await going
            await session.saved(4)
            await mirrored(session, 4)
        assert session.log.of(TierFailed) == []
        await checked(inner)
        await _trained(home, inner, 5)
        await _trained(home, inner, 7)
        assert (await steps(inner))[-1] == 8
        assert await leftovers(inner) == [], mirror.requests[number]

    for number in range(_requests()):
        drive(act(number))


async def _go_on(session: Session) -> None:
    await session.go_on(await session.resume())
    await session.saved(3)
    for _ in range(400):
        await asyncio.sleep(0)


def test_a_commit_that_is_broken_off_would_be_taken_for_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, ownership, "except (OutcomeUnknown, asyncio.CancelledError):", "except OutcomeUnknown:")
    with pytest.raises(AssertionError):
        test_a_copy_that_is_broken_off_at_any_request_is_made_up_for_by_the_next()


class Deaf(Held):
    """One that stops when it is told to, but not at once."""

    async def put(self, key: str, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().put(key, *arguments, **options)
        except asyncio.CancelledError:
            for _ in range(100):
                await asyncio.sleep(0)
            raise


def test_what_is_committed_while_an_emergency_has_the_mirror_stop_gets_there_all_the_same() -> None:
    async def act(home: MemoryStorage, _: MemoryStorage) -> None:
        mirror = Deaf()
        async with Session(home, mirror=mirror) as session:
            await session.saved(1)
            await mirror.reached.wait()
            mirroring, writer = session.service._mirroring, session.service.ownership.writer
            assert mirroring is not None
            assert writer is not None
            mirroring.hurry()
            mirroring.want(writer, 1)
            mirror.gate.set()
            await mirrored(session, 1)
        assert await steps(mirror) == [1]

    run(act)
