"""Haste: an emergency, or an orphaned worker, leaves retention to the next start, but names no step twice."""

from __future__ import annotations

import pytest

from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.events import Pruned
from asyncckpt.retention import Monitor
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.requests import FaultyStorage
from asyncckpt.worker import root
from asyncckpt.worker.commitlog.offline import ask
from tests.worker.drive import Session, checked, keys, leftovers, run, three
from tests.worker.mutants import mutate

LOSS: Monitor = ("loss", "min")


async def seqs(store: MemoryStorage) -> list[int]:
    return [c.seq for c in (await checked(store)).checkpoints]


async def again(store: MemoryStorage) -> None:
    async with Session(store, keep=1) as session:
        await session.resume()
        await session.service.go_on(3, (), named=False)
        record = await session.saved(3, emergency=True)
        assert [(r.seq, r.rule) for r in record.removed] == [(3, "replaced")]
        assert [event.seq for event in session.log.of(Pruned)] == [3]
    assert await seqs(store) == [1, 2, 4], "no rule of the policy has its turn"


def test_an_emergency_save_of_a_step_replaces_the_earlier_one_and_removes_nothing_else() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await ask(store, [1], "me", SYSTEM_CLOCK)
        await again(store)
        assert len(await keys(store, "user/")) == 1, "whoever asked is answered by the next save"
        async with Session(store) as session:
            await session.resume()
            await session.service.go_on(4, (), named=False)
            await session.saved(5)
        assert await seqs(store) == [2, 4, 5]
        assert await leftovers(store) == []

    run(act)


@pytest.mark.parametrize("orphaned", [False, True])
def test_what_was_saved_before_the_emergency_came_up_does_not_stay_either(orphaned: bool) -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            await session.saved(1)
            session.service._orphaned = orphaned
            await session.saved(1, emergency=not orphaned)
        assert await seqs(store) == [2]

    run(act)


def test_the_best_a_pinned_one_and_what_is_more_than_a_part_stay() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, monitor=LOSS) as session:
            await session.saved(1, {"loss": 0.5})
            await session.saved(1, {"loss": 0.9}, emergency=True)
            assert await seqs(store) == [1, 2]
            await session.saved(2)
            await session.saved(2, emergency=True, partial=("optimizer",))
            assert await seqs(store) == [1, 2, 3, 4]
            await session.saved(2, emergency=True)
            assert await seqs(store) == [1, 2, 5]

    run(act)


def test_another_step_costs_an_emergency_no_request_for_it() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        asked = FaultyStorage(store)
        async with Session(asked) as session:
            await session.resume()
            await session.service.go_on(3, (), named=False)
            await session.tidied()
            before = len(asked.requests)
            await session.saved(4, emergency=True)
            assert not [request for request in asked.requests[before:] if "user/" in request]

    run(act)


def test_a_missing_line_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, root, "return await self.keeping.judge_in_haste(writer, checkpoint)", "return Verdict()")
    with pytest.raises(AssertionError):
        test_an_emergency_save_of_a_step_replaces_the_earlier_one_and_removes_nothing_else()
