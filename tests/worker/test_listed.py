"""Listed: what a writer keeps up to date from commit to commit is what a walk over everything finds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.marking import unmark
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import StorageDenied, TransientError
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.marks import Mark, encode
from asyncckpt.format.record import Checkpoint, Record, Removal
from asyncckpt.format.slots import Slots
from asyncckpt.retention import Monitor, RetentionPolicy, Told, best_of, monitor_of, plan
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker.commitlog.offline import ask
from asyncckpt.worker.commitlog.standing import Standing
from tests.worker.drive import Session, run

DAMAGE = Damage("content", "a test says so", "me", 0)
Turn: TypeAlias = tuple[Any, ...]

saves = st.tuples(
    st.just("save"),
    st.integers(1, 12),
    st.none() | st.sampled_from([0.1, 0.5, math.nan]),
    st.none() | st.integers(1, 4),
)
others = st.sampled_from(
    [
        *product(("refused", "lost", "restart", "crash", "prune")),
        *product(("pin", "unpin", "ask", "go back", "note damage", "take it back"), (1, 2, 4)),
    ]
)
policies = st.builds(
    RetentionPolicy,
    last=st.none() | st.integers(1, 4),
    best=st.none() | st.integers(1, 2),
    every_steps=st.none() | st.integers(2, 3),
    every_epochs=st.none() | st.just(2),
)


class Drive:
    """Sessions on one store, one after the other."""

    def __init__(self, store: MemoryStorage, policy: RetentionPolicy, monitors: list[Monitor | None]) -> None:
        self.store = GatedStorage(store)
        self._policy = policy
        self._monitors = monitors
        self._begin(None)

    def _begin(self, former: Session | None) -> None:
        if former is None:
            self._monitor = self._monitors.pop(0)
        self.session = Session(self.store, keep=self._policy, monitor=self._monitor, former=former)

    async def turn(self, what: str, *values: Any) -> None:
        listed = (await Catalog(self.store.inner).listing()).checkpoints
        place = [c.seq for c in listed][-values[0] :][:1] if len(values) == 1 else []
        if what == "save":
            step, loss, epoch = values
            await self.session.saved(step, None if loss is None else {"loss": loss}, epoch)
        elif what == "refused":
            self.store.fail("put", "commits/*", StorageDenied, times=1)
            await self.session.refused(13)
            self.store.heal()
        elif what == "lost":
            self.store.fail("list", "commits/", TransientError, times=1)
            await self.session.refused(14)
            self.store.heal()
        elif what == "restart" and self._monitors:
            await self.session.close()
            self._begin(None)
        elif what == "crash":
            await self.session.abandon()
            self._begin(self.session)
        elif what == "prune":
            await self.session.service.prune(dry_run=False)
        for seq in place:
            await self._speak(what, seq, listed[-1].seq)

    async def _speak(self, what: str, seq: int, newest: int) -> None:
        if what == "pin":
            await self.store.put(Mark(seq).key, [encode("me", 1)])
        elif what == "unpin":
            await unmark(Catalog(self.store), str(seq), None)
        elif what == "ask":
            await ask(self.store, [seq], "me", SYSTEM_CLOCK)
        elif what == "go back":
            await self.session.service.go_on(seq, {newest} - {seq}, named=True)
        elif what == "note damage":
            await self.store.put((await self._finding(seq)).key, [DAMAGE.encode()])
        elif what == "take it back":
            await self.store.delete([(await self._finding(seq)).key])

    async def _finding(self, seq: int) -> Finding:
        return Finding.of((await Catalog(self.store).listing()).find(f"{seq:08d}"))

    async def check(self) -> None:
        """Compare what the writer knows with what lies in the store."""
        await self.session.service.settled()
        writer = self.session.service.ownership.writer
        if writer is None:
            return
        listing = await Catalog(self.store.inner).listing()
        assert [c.seq for c in writer.checkpoints] == [c.seq for c in listing.checkpoints], "NaN is not NaN"
        assert writer.head.live == Slots.of(record.slot for record in listing.records)
        if writer.head.kind == "checkpoint":
            best = best_of(listing.checkpoints, monitor_of(listing.checkpoints))
            assert writer.head.best_slot == next((r.slot for r in listing.records if r.checkpoint is best), None)
        packs = {pack.key: pack.length for c in listing.checkpoints for pack in c.packs}
        assert (len(writer.listed), writer.listed.uses.nbytes) == (len(listing.checkpoints), sum(packs.values()))

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Every judgement must be that of the plan over everything."""
        real = Standing.removed

        def removed(standing: Standing, newest: Checkpoint, monitor: Monitor | None, told: Told) -> tuple[Removal, ...]:
            writer = self.session.service.ownership.writer
            assert writer is not None
            live = writer.checkpoints
            assert monitor == (self._monitor or monitor_of(live))
            found = real(standing, newest, monitor, told)
            assert found == plan(self._policy, live, newest=newest, monitor=monitor, told=told).removed
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Standing, "removed", removed)
            yield


monitors = st.lists(st.sampled_from([None, ("loss", "min"), ("loss", "max")]), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(policies, monitors, st.lists(saves | saves | others, min_size=5, max_size=30))
def test_it_is_what_a_walk_over_everything_finds(
    policy: RetentionPolicy, monitors: list[Monitor | None], turns: list[Turn]
) -> None:
    async def act(store: MemoryStorage) -> None:
        drive = Drive(store, policy, [*monitors])
        with drive.judging():
            for what, *values in [*turns, ("save", 1, 0.5, 1)]:
                await drive.turn(what, *values)
                await drive.check()
            await drive.session.close()

    run(act)


@pytest.mark.parametrize("options", [{}, {"resumed": False}, {"resumed": False, "overwrite": True}])
@pytest.mark.parametrize(
    "policy", [None, RetentionPolicy(last=1000, best=1000, every_steps=1, every_epochs=1, hourly=9, daily=9)]
)
def test_a_save_looks_at_no_more_checkpoints_where_more_are_kept(
    policy: RetentionPolicy | None, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: to find a place takes a few looks more, but one walk over all of them hundreds."""
    looks = 0

    def counting(entry: object, name: str) -> Any:
        nonlocal looks
        looks += 1
        return object.__getattribute__(entry, name)

    async def act(store: MemoryStorage) -> list[int]:
        nonlocal looks
        counts = []
        async with Session(store, keep=policy, monitor=("loss", "min"), **options) as session:
            for step in range(1, 402):
                looks = 0
                await session.saved(step, {"loss": 1 / step}, step)
                await session.service.settled()
                counts.append(looks)
        return counts

    for kind in (Checkpoint, Record):
        monkeypatch.setattr(kind, "__getattribute__", counting)
    counts = run(act)
    assert 0 < counts[400] < counts[100] + 200
