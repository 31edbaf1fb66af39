"""Increments: what changed is written, the rest is shared with packs that this incarnation wrote or verified."""

from __future__ import annotations

import asyncio
import json
import mmap
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as File

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from asyncckpt.errors import OutcomeUnknown, SaveFailed, TransientError
from asyncckpt.events import Durable
from asyncckpt.format.codec import PLAIN, Codec
from asyncckpt.format.contents import Box, Contents, Extent, Pack, Path, TensorEntry
from asyncckpt.format.names import DataDirectory, record_key
from asyncckpt.format.record import PackUse, Record
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker import gathering, increment, pipeline
from asyncckpt.worker.gathering import gathered
from asyncckpt.worker.increment import Base, choose, join, turnover
from asyncckpt.worker.job import Layout, PlannedPack, SaveJob
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.pipeline import Packing, Written
from asyncckpt.worker.watermark import Watermark
from tests.worker.drive import Session, Tensors, checked, image, keys, run
from tests.worker.stores import damage

FEW: Mapping[Path, bytes] = {("w", str(n)): bytes([n]) * 100 for n in range(10)}


def few(*changed: int) -> Callable[[int], Tensors]:
    """Ten tensors of 100 bytes, of which those numbered `changed` change with every step."""
    return lambda step: {path: bytes([step]) * 100 if int(path[1]) in changed else data for path, data in FEW.items()}


def packs_of(record: Record) -> tuple[PackUse, ...]:
    assert record.checkpoint is not None
    return record.checkpoint.packs


def own(record: Record) -> list[PackUse]:
    """The packs that were written for it."""
    assert record.checkpoint is not None
    folder = record.checkpoint.manifest.key.rsplit("/", 1)[0]
    return [pack for pack in record.checkpoint.packs if pack.key.startswith(folder)]


async def tensors_in(store: MemoryStorage, pack: PackUse) -> set[str]:
    """The names in a pack's header."""
    data = bytes(await store.get(pack.key))
    return set(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])) - {"__metadata__"}


# -- what is written -------------------------------------------------------------------------------------------


def test_only_what_changed_is_written_and_the_rest_is_shared() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=few(3)) as session:
            first, second = await session.saved(11), await session.saved(12)
            assert [pack.live for pack in packs_of(second)] == [100, 900]
            assert await tensors_in(store, own(second)[0]) == {"w.3"}
            assert packs_of(second)[1].key == packs_of(first)[0].key
            assert second.checkpoint is not None
            assert second.checkpoint.size == 1000
            written = [event.written for event in session.log.of(Durable)]
            assert written == [pack.length for record in (first, second) for pack in own(record)]

    run(act)


def test_an_increment_in_which_nothing_changed_has_no_pack() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=few()) as session:
            first, second = await session.saved(11), await session.saved(12)
            assert own(second) == []
            assert packs_of(second) == packs_of(first)
            assert [event.written for event in session.log.of(Durable)][1] == 0
            folder = second.checkpoint.manifest.key.rsplit("/", 1)[0] if second.checkpoint else ""
            assert await keys(store, folder) == [f"{folder}/manifest.json"]

    run(act)


def test_what_changes_back_and_forth_is_compared_with_the_save_before() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=lambda step: {**FEW, ("w", "0"): bytes([step % 2]) * 100}) as session:
            for step in (1, 2, 3):
                await session.saved(step)
            last = await session.saved(5)
            assert own(last) == []

    run(act)


def test_a_tensor_of_another_form_is_another_tensor_though_its_bytes_are_the_same() -> None:
    entry = TensorEntry("float32", (4,), (Box((0,), (4,), (Extent(0, 4096, 16, "d"),)),))
    base = Base(Contents((Pack("p", 4112, 4096, "h"),), {("t",): entry}, {}))
    assert choose({("t",): entry}, base).kept == {("t",): entry}
    shaped = TensorEntry("float32", (2, 2), (Box((0, 0), (2, 2), entry.boxes[0].extents),))
    for other in (
        TensorEntry("int32", (4,), entry.boxes),
        shaped,
        TensorEntry("float32", (2, 2), shaped.boxes, (1, 2)),
        TensorEntry("float32", (4,), (Box((0,), (4,), (Extent(0, 4096, 16, "e"),)),)),
    ):
        assert choose({("t",): other}, base).changed == {("t",)}


def test_a_save_that_changes_almost_everything_is_written_whole() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=few(*range(9))) as session:
            records = [await session.saved(step) for step in (1, 2, 3, 4)]
        assert [len(packs_of(record)) for record in records] == [1, 1, 1, 1], "a tenth is not worth a second pack"

    run(act)


def test_everything_is_expected_to_change_once_two_saves_in_a_row_changed_it() -> None:
    base = Base(Contents((), {}, {}))
    for changed, expected in ((0.9, False), (0.9, True), (0.8, False), (1.0, False), (1.0, True)):
        base = base.followed_by(base.contents, changed)
        assert base.is_mostly_changing == expected


@pytest.mark.parametrize("base", [None, Base(Contents((), {}, {}), (1.0, 1.0))])
def test_what_is_expected_to_change_is_written_behind_the_watermark(base: Base | None) -> None:
    layout, arena = image(FEW)
    job, watermark = SaveJob("job", 1, 1, None, {}, 0, "arena", layout), Watermark()
    gated = GatedStorage(MemoryStorage())

    async def act() -> Written:
        with ThreadPoolExecutor(2) as threads:
            where = DataDirectory(1, 1, 1, "0" * 8)
            packing = Packing(job, memoryview(arena), watermark, gated, where, threads, Pace())
            with gated.hold("put", "data/*") as gate:
                writing = asyncio.create_task(packing.write(base))
                await asyncio.to_thread(gate.wait_reached)  # and nothing is staged yet
            watermark.advance(len(arena))
            return await writing

    assert asyncio.run(act()).nbytes == len(arena)


def test_the_storage_is_handed_all_that_is_staged_up_to_a_limit() -> None:
    limit, chunk = pipeline.MOST, pipeline.CHUNK
    size = limit + 3 * chunk + 5
    layout = Layout((PlannedPack(0, 0, size),), {}, {}, size, size)
    watermark, view = Watermark(), memoryview(mmap.mmap(-1, size))

    async def act() -> list[int]:
        with ThreadPoolExecutor(1) as threads:
            job = SaveJob("job", 1, 1, None, {}, 0, "arena", layout)
            packing = Packing(job, view, watermark, MemoryStorage(), DataDirectory(1, 1, 1, "0" * 8), threads, Pace())
            sizes = []
            stages = [2 * chunk, chunk + 1, size]
            watermark.advance(chunk + 7)
            async for part in packing._chunks(0, layout.packs[0]):
                sizes.append(len(part))
                if stages:
                    watermark.advance(sum(sizes) + stages.pop(0))
            return sizes

    assert asyncio.run(act()) == [chunk, 2 * chunk, chunk, limit - chunk + 5]


def test_a_state_that_freezes_after_all_is_shared_from_the_second_save_on() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=lambda step: few(*range(10))(min(step, 3))) as session:
            sizes = [sum(pack.live for pack in own(await session.saved(step))) for step in (1, 2, 3, 4, 5)]
        assert sizes == [1000, 1000, 1000, 1000, 0], "the fourth was written before it was known"

    run(act)


# -- packs that are mostly dead --------------------------------------------------------------------------------


def test_what_lies_in_a_pack_that_is_less_than_half_alive_moves_once() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1, tensors=few(*range(6))) as session:
            await session.saved(1)
            second = await session.saved(2)
            assert sorted(pack.live for pack in own(second)) == [400, 600], "what moves lies apart from what changes"
            for step in (3, 4, 5):
                record = await session.saved(step)
                assert [pack.live for pack in own(record)] == [600], "or it would move with every save"
                assert len(packs_of(record)) == 2
            await session.tidied()

    run(act)


def test_a_pack_that_is_half_alive_stays() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=few(*range(5))) as session:
            await session.saved(1)
            assert [pack.live for pack in own(await session.saved(2))] == [500]

    run(act)


def taking_turns(step: int) -> Tensors:
    """One tensor changes with every step, each in its turn: after ten, every one lies in a pack of its own."""
    return {path: bytes([step - (step - int(path[1])) % 10 + 10]) * 100 for path in FEW}


@pytest.mark.parametrize(("most", "named"), [(64, 10), (4, 6)])
def test_a_checkpoint_names_few_older_packs(monkeypatch: pytest.MonkeyPatch, most: int, named: int) -> None:
    monkeypatch.setattr(increment, "MAX_OLD_PACKS", most)

    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=taking_turns) as session:
            counts = [len(packs_of(await session.saved(step))) for step in range(1, 40)]
        assert max(counts) == named
        await checked(store, taking_turns)

    run(act)


# -- bases -----------------------------------------------------------------------------------------------------


async def sound(session: Session) -> Contents:
    """What the newest checkpoint holds."""
    listing = await session.service.catalog.listing()
    return (await session.service.catalog.manifest(listing.candidates()[0])).contents


def test_rule_23_a_new_incarnation_shares_only_what_it_has_verified() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=few(3)) as session:
            await session.saved(1)
        async with Session(store, tensors=few(3)) as session:
            await session.resume()
            assert [pack.live for pack in packs_of(await session.saved(2))] == [1000]
        async with Session(store, tensors=few(3)) as session:
            await session.go_on(await session.resume())
            assert [pack.live for pack in own(await session.saved(3))] == [100]

    run(act)


def test_rule_23_the_first_save_after_a_fallback_past_damage_is_full() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=few(3)) as session:
            await session.saved(1)
            await session.saved(2)
        async with Session(store, tensors=few(3)) as session:
            await session.resume()
            await session.service.go_on(1, (2,), named=False, verified=await sound(session))
            assert [pack.live for pack in packs_of(await session.saved(3))] == [1000]

    run(act)


def test_rule_23_a_run_that_had_to_be_opened_anew_has_no_base() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated, tensors=few(3)) as session:
            await session.saved(1)
            gated.fail("list", "commits/", TransientError, times=1)  # the look after the record
            assert isinstance(await session.refused(2), OutcomeUnknown)
            after = await session.saved(3)
            assert after.inc == 2
            assert [pack.live for pack in packs_of(after)] == [1000]

    run(act)


def test_rule_5_a_pack_that_no_listed_checkpoint_names_is_not_shared() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1, tensors=few(*range(8))) as session:
            await session.saved(1)
            stale = await sound(session)
            for step in (2, 3):
                await session.saved(step)
            await session.tidied()
            writer = session.service.ownership.writer
            assert writer is not None
            writer.base = Base(stale)
            session._tensors = lambda step: few(*range(8))(1)
            error = await session.refused(4)
            assert isinstance(error, SaveFailed)
            assert "no listed checkpoint names data/00000001" in str(error)
            assert [pack.live for pack in own(await session.saved(5))] == [1000], "the next save does without"

    run(act)


# -- retention -------------------------------------------------------------------------------------------------


def test_a_shared_pack_outlives_the_checkpoint_it_was_written_for() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1, tensors=few(3)) as session:
            first = await session.saved(1)
            for step in range(2, 9):
                await session.saved(step)
            await session.tidied()
            assert packs_of(first)[0].key in await keys(store, "data/")
        assert len([key for key in await keys(store) if key.endswith(".safetensors")]) == 2
        assert len([key for key in await keys(store) if key.endswith("manifest.json")]) == 1

    run(act)


def test_a_pack_goes_one_commit_after_the_last_checkpoint_that_shares_it_was_dropped() -> None:
    """Not with the checkpoint it was written for: whoever reads the head before may be reading one that shares it."""

    def tensors(step: int) -> Tensors:
        return few(1)(step) if step < 3 else few(*range(10))(step)

    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1, tensors=tensors) as session:
            first = packs_of(await session.saved(1))
            shared = {pack.key for pack in packs_of(await session.saved(2))} & {pack.key for pack in first}
            assert shared
            third = await session.saved(3)
            await session.tidied()
            assert not shared & {pack.key for pack in packs_of(third)}
            assert shared <= {*await keys(store, "data/")}, "checkpoint 2 was listed a moment ago"
            await session.saved(4)
            await session.tidied()
            assert not shared & {*await keys(store, "data/")}

    run(act)


@given(
    saves=st.lists(
        st.tuples(st.sets(st.integers(0, 9)), st.sampled_from(["", "", "", "resume", "start"])), max_size=12
    ),
    keep=st.sampled_from([None, 1, 2, 3]),
)
@settings(deadline=None, max_examples=60)
def test_every_listed_checkpoint_loads_bit_by_bit_after_any_pruning(
    saves: list[tuple[set[int], str]], keep: int | None
) -> None:
    state = dict(FEW)
    saved: dict[int, Tensors] = {}

    async def train(store: MemoryStorage, part: list[tuple[int, set[int]]], verify: bool) -> None:
        async with Session(store, keep=keep, tensors=lambda step: saved[step]) as session:
            listing = await session.resume()
            if verify:
                await session.go_on(listing)
            for step, changed in part:
                state.update({("w", str(n)): bytes([step, n]) * 50 for n in changed})
                saved[step] = dict(state)
                await session.saved(step)

    async def act(store: MemoryStorage) -> None:
        part: list[tuple[int, set[int]]] = []
        verify = False
        for step, (changed, then) in enumerate(saves, 1):
            part.append((step, changed))
            if then:
                await train(store, part, verify)
                part, verify = [], then == "resume"
        await train(store, part, verify)
        listing = await checked(store, lambda step: saved[step])
        assert [c.step for c in listing.checkpoints] == list(saved)[-keep if keep else 0 :]
        named = {pack.key for c in listing.checkpoints for pack in c.packs}
        assert {key for key in await keys(store) if key.endswith(".safetensors")} == named

    run(act)


# -- gathering -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [4096, 1 << 20])
def test_a_gathered_pack_is_a_sound_safetensors_file(
    tmp_path: File, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(gathering, "CHUNK", room)
    monkeypatch.setattr(gathering, "_WITHOUT_THE_LOCK", 1000)
    sizes = (5000, 1, 0, 4096, 12345, 999, 1000)
    state = {("t", str(n)): bytes((n + i) % 251 for i in range(size)) for n, size in enumerate(sizes)}
    layout, arena = image(state)
    chosen = [path for path in state if path[1] != "3"]
    (pack,) = gathered(layout, chosen)

    async def act() -> None:
        with ThreadPoolExecutor(1) as threads:
            store = LocalStorage(tmp_path)
            await store.put("pack.safetensors", gathering.chunks(pack, memoryview(arena), threads), length=pack.length)

    asyncio.run(act())
    with safe_open(tmp_path / "pack.safetensors", "pt") as found:
        assert {name: found.get_tensor(name).numpy().tobytes() for name in found.keys()} == {  # noqa: SIM118
            ".".join(path): state[path] for path in chosen
        }
    assert pack.length == (tmp_path / "pack.safetensors").stat().st_size


def test_neighbours_in_the_arena_are_one_range() -> None:
    layout, _ = image(FEW)
    (pack,) = gathered(layout, [("w", "1"), ("w", "2"), ("w", "5")])
    assert [r.end - r.start for r in pack.ranges] == [200, 100]
    assert gathered(layout, []) == []


def test_joined_contents_name_only_the_packs_they_use() -> None:
    def entry(pack: int) -> TensorEntry:
        return TensorEntry("uint8", (1,), (Box((0,), (1,), (Extent(pack, 4096, 1, "d"),)),))

    packs = tuple(Pack(f"p{n}", 4097, 4096, "h") for n in range(4))
    own_contents = Contents((Pack("own", 4097, 4096, "h"),), {("a",): entry(0)}, {})
    found = join(own_contents, {("b",): entry(3), ("c",): entry(1)}, packs)
    assert [pack.key for pack in found.packs] == ["own", "p1", "p3"]
    assert [found.tensors[path,].boxes[0].extents[0].pack for path in "abc"] == [0, 2, 1]


def test_the_explorations_of_this_folder_save_increments() -> None:
    """What holds the crash tests to increments: their state has parts that stay, and parts that change."""

    async def act(store: MemoryStorage) -> None:
        async with Session(store) as session:
            assert [len(packs_of(await session.saved(step))) for step in (1, 2, 3)] == [1, 2, 2]

    run(act)


@pytest.mark.parametrize("codec", [PLAIN, Codec(compresses=True)], ids=lambda codec: codec.word)
def test_a_pack_that_a_checkpoint_whose_record_is_lost_may_share_stays(codec: Codec) -> None:
    """The record may be restored from a copy: then its checkpoint is whole, whatever retention has removed since."""

    async def act(store: MemoryStorage) -> None:
        async with Session(store, tensors=few(3), codec=codec) as session:
            first, second = await session.saved(1), await session.saved(2)
        key = record_key(second.slot)
        copy = bytes(await store.get(key))
        await damage(store, key)
        async with Session(store, keep=1, tensors=few(*range(10)), codec=codec) as session:
            await session.resume()
            third = await session.saved(3)
            assert [removal.seq for removal in third.removed] == [1]
            await session.saved(4)
            await session.saved(5)
        left = await keys(store, "data/")
        assert {pack.key for record in (first, second) for pack in packs_of(record)} <= {*left}
        assert not {pack.key for pack in own(third)} & {*left}, "what this writer wrote no lost record can share"
        await store.put(key, [copy])
        listing = await checked(store, lambda step: few(3)(step) if step == 2 else few(*range(10))(step))
        assert [c.step for c in listing.checkpoints] == [2, 5]

    run(act)


@pytest.mark.timeout(60)
@given(st.lists(st.sampled_from(["same", "changed", "new", "other form"]), max_size=8))
def test_the_turnover_of_a_save_written_whole_is_that_of_an_increment(kinds: list[str]) -> None:
    def entry(number: int, content: str, dtype: str = "F32") -> TensorEntry:
        extents = (Extent(0, 100 * number, 10 + number, content),)
        return TensorEntry(dtype, (10 + number,), (Box((0,), (10 + number,), extents),))

    known = {("w", str(n)): entry(n, "a") for n, kind in enumerate(kinds) if kind != "new"}
    base = Base(Contents((Pack("data/a", 1000, 0, "0" * 32, 0),), known, {}, {}))
    now = {
        ("w", str(n)): entry(n, "b" if kind == "changed" else "a", "F16" if kind == "other form" else "F32")
        for n, kind in enumerate(kinds)
    }
    sizes = {kind: sum(10 + n for n, other in enumerate(kinds) if other == kind) for kind in kinds}
    expected = 1 - sizes.get("same", 0) / sum(sizes.values()) if kinds else 0
    assert turnover(now, base) == choose(now, base).turnover == pytest.approx(expected)


def test_choosing_among_very_many_tensors_comes_to_an_end() -> None:
    """Work that grew with the square of their number took ten seconds for 20,000 that had not changed."""
    count = 80_000
    entries = {
        ("t", str(n)): TensorEntry("uint8", (4,), (Box((0,), (4,), (Extent(0, 4 * n, 4, f"{n:032x}"),)),))
        for n in range(count)
    }
    base = Base(Contents((Pack("data/a", 4 * count, 0, "0" * 32, 0),), entries, {}, {}))
    choice = choose(entries, base)
    assert len(choice.kept) == count
    assert not choice.changed
