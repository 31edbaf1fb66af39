"""Retention through a real writer: what is listed is what lies in the store, restarts or not."""

from __future__ import annotations

from itertools import pairwise

import pytest

from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.storage import MemoryStorage
from tests.worker.drive import Session, checked, leftovers, run, steps

LOSS: Monitor = ("val_loss", "min")
POLICY = RetentionPolicy(last=5, best=3, every_epochs=10)
BEST = {7: 0.1, 23: 0.2, 31: 0.3}
STAY = [7, 10, 20, 23, 30, 31, 40, 46, 47, 48, 49, 50]


@pytest.mark.parametrize("restarts", [[1, 51], [1, 8, 9, 24, 32, 45, 51]], ids=["in one go", "with restarts"])
def test_c10_the_documented_example_lists_what_lies_on_the_disk(restarts: list[int]) -> None:
    """50 epochs; the last 5, the best 3 and every tenth stay, also what an earlier process saved as the best."""

    async def act(store: MemoryStorage) -> None:
        for first, end in pairwise(restarts):
            async with Session(store, keep=POLICY, monitor=LOSS) as session:
                await session.resume()
                for epoch in range(first, end):
                    await session.saved(epoch, {"val_loss": BEST.get(epoch, 1.0)}, epoch)
        assert await steps(store) == STAY
        assert [c.step for c in (await checked(store)).checkpoints] == STAY
        assert await leftovers(store) == []

    run(act)


def test_p9_a_last_save_by_hand_without_metrics_does_not_cost_the_best_checkpoint() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=RetentionPolicy(last=2), monitor=LOSS) as session:
            for step, loss in ((1, 0.9), (2, 0.5), (3, 0.1)):
                await session.saved(step, {"val_loss": loss})
            await session.saved(3)
        listing = await checked(store)
        assert [c.seq for c in listing.checkpoints] == [3, 4]
        assert listing.find("best").seq == 3
        assert listing.find(3).seq == 4, "a step still names the newest of it"

    run(act)
