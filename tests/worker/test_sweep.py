"""What is deleted, when, and what never is: retention, the deletion after it, and the start's sweep."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import StorageDenied
from asyncckpt.events import Leftover, Pruned, Swept
from asyncckpt.format import names
from asyncckpt.format.marks import Mark
from asyncckpt.format.names import DataDirectory
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage.base import Storage, UploadInfo
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker.commitlog.sweep import carry_out, plan_sweep, seen_outside
from tests.worker.drive import Session, changing, checked, keys, leftovers, opened, run, steps, three
from tests.worker.stores import damage


async def folders(store: Storage) -> list[int]:
    """The steps of all data folders, listed or not."""
    return sorted({d.step for key in await keys(store, names.DATA) if (d := names.directory_of(key))})


async def leave(store: Storage, inc: int, step: int = 99) -> list[str]:
    """Leave an attempt of incarnation `inc` that never got a record; returns its keys, sorted."""
    directory = DataDirectory(90, step, inc, "0123abcd")
    made = [directory.manifest, directory.pack(0, 1, 0), directory.report(0, 1)]
    for key in made:
        await store.put(key, [b"x"])
    return sorted(made)


# -- 19, 20: retention and deletion ----------------------------------------------------------------------------


def test_rule_19_retention_takes_effect_in_the_record_itself() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store, keep=2) as session:
            await session.resume()
            record = await session.saved(4)
            assert [(r.seq, r.step, r.reason) for r in record.removed] == [
                (1, 1, "no rule keeps it: last 2"),
                (2, 2, "no rule keeps it: last 2"),
            ]
            assert await steps(store) == [3, 4]
            assert [e.step for e in session.log.of(Pruned)] == [1, 2]

    run(act)


def test_rule_19_a_later_save_of_a_step_replaces_it_under_every_policy() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store) as session:
            await session.resume()
            record = await session.saved(2)
            assert [(r.step, r.reason) for r in record.removed] == [(2, "replaced by a later save of its step")]
        assert [c.seq for c in (await checked(store)).checkpoints] == [1, 3, 4]

    run(act)


def test_rule_19_a_checkpoint_that_is_being_read_or_is_damaged_stays() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        async with Session(store, keep=1) as session:
            await session.resume()
            await session.found_damaged(2)
            await session.service.go_on(3, {2}, named=False)
            with session.service.hold(1):
                await session.saved(4)
                assert await steps(store) == [1, 2, 4]
            await session.saved(5)
            assert await steps(store) == [2, 5]

    run(act)


def test_rule_20_what_a_record_dropped_is_deleted_after_the_next_one() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1, tensors=changing) as session:
            for step in (1, 2):
                await session.saved(step)
            assert (await steps(store), await folders(store)) == ([2], [1, 2])
            await session.saved(3)
            await session.tidied()
            assert (await steps(store), await folders(store)) == ([3], [2, 3])
        assert (await steps(store), await folders(store)) == ([3], [3])

    run(act)


def test_rule_20_nothing_is_deleted_before_the_record_that_drops_it_is_durable() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1, tensors=changing) as session:
            await session.saved(1)
        gated = GatedStorage(store)
        async with Session(gated, keep=1, tensors=changing) as session:
            await session.resume()
            gated.fail("put", "commits/*", StorageDenied, times=1)
            assert isinstance(await session.refused(2), StorageDenied)
            assert (await steps(store), await folders(store)) == ([1], [1])
            await session.saved(3)
            await session.saved(4)
        assert (await steps(store), await folders(store)) == ([4], [4])

    run(act)


def test_rule_20_packs_go_before_what_describes_them_and_records_last() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated, keep=1, tensors=changing) as session:
            for step in (1, 2, 3):
                await session.saved(step)
        deleted = [key.rsplit("/")[-1] for request, key in gated.calls if request == "delete"]
        one = ["rank-00000-of-00001.p0.safetensors", "manifest.json"]
        assert deleted == ["0000000001.json", *one, "0000000002.json", *one, "0000000003.json"]

    run(act)


def test_what_was_dropped_and_could_not_be_deleted_is_no_lost_save() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        gated.fail("delete", "*", StorageDenied)
        async with Session(gated, keep=1, tensors=changing) as session:
            for step in (1, 2, 3):
                await session.saved(step)
        async with Session(store) as session:
            await session.resume()
        assert [e.unfinished for e in session.log.of(Swept)] == [()]

    run(act)


def test_rule_20_records_that_are_neither_live_nor_the_head_are_removed() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=1, tensors=changing) as session:
            for step in (1, 2, 3, 4):
                await session.saved(step)
            await session.tidied()
            assert await Catalog(store).slots() == [4, 5]
        assert await Catalog(store).slots() == [5, 6]
        assert await leftovers(store) == []

    run(act)


def test_rule_20_a_deletion_that_fails_harms_nobody_and_is_left_to_the_next_start() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        gated.fail("delete", "*", StorageDenied)
        async with Session(gated, keep=1, tensors=changing) as session:
            for step in (1, 2, 3, 4):
                await session.saved(step)
        assert {e.what for e in session.log.of(Leftover)} == {"deletion of dropped checkpoints"}
        assert (await steps(store), await folders(store)) == ([4], [1, 2, 3, 4])
        async with Session(store) as session:
            await session.resume()
        assert (await folders(store), await leftovers(store)) == ([4], [])

    run(act)


# -- 21: the sweep ---------------------------------------------------------------------------------------------


def test_rule_21_what_earlier_incarnations_left_goes() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await leave(store, inc=1)
        async with Session(store) as session:
            await session.resume()
        assert [e.objects for e in session.log.of(Swept)] == [4]
        # What was begun after all that is listed is lost: its host may have been another, whose log is not at hand.
        assert [e.unfinished for e in session.log.of(Swept)] == [("step 99 of incarnation 1",)]
        assert await leftovers(store) == []
        assert await steps(store) == [1, 2, 3]

    run(act)


def test_rule_21_a_probe_that_was_left_goes() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await store.put(names.probe(), [b"what a doctor that was killed has measured with"])
        async with Session(store) as session:
            await session.resume()
        assert await leftovers(store) == []
        assert session.log.of(Leftover) == []

    run(act)


@pytest.mark.parametrize("is_alone", [False, True])
def test_from_outside_a_mark_of_what_may_be_on_its_way_stays_where_a_training_may_live(is_alone: bool) -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        catalog = Catalog(store)
        listing = await catalog.listing()
        assert listing.head is not None
        # Numbers 4 to 8 were given out: one of these may be committed any moment, and somebody may have pinned it.
        head = replace(listing.head, next_seq=9)
        gone, coming = Mark(0), Mark(7)
        for mark in (gone, coming):
            await store.put(mark.key, [b""])
        view = await seen_outside(catalog, listing, head, is_alone=is_alone)
        planned = set((await plan_sweep(view)).keys)
        assert planned & {gone.key, coming.key} == ({gone.key, coming.key} if is_alone else {gone.key})

    run(act)


def test_rule_21_packs_are_planned_first_and_records_last() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        left = await leave(store, inc=1)
        planned = list((await plan_sweep(await opened(store))).keys)
        assert planned[0].endswith(".safetensors")
        assert sorted(planned[:3]) == left
        assert planned[3:] == [names.record_key(5)]

    run(act)


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_rule_21_nothing_of_the_own_or_a_newer_incarnation_is_touched(ahead: int) -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        left = await leave(store, inc=2 + ahead)
        writer = await opened(store)
        assert writer.inc == 2
        await carry_out(await plan_sweep(writer), store)
        assert [key for key in await keys(store, names.DATA) if "-step-99-" in key] == left

    run(act)


def test_rule_21_a_sweep_that_comes_late_spares_what_a_newer_writer_saves() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        late = await opened(store, "a")
        async with Session(store, keep=1) as session:
            await session.resume()
            await session.saved(10)
            left = await leave(
                store, inc=session.service.ownership.writer.inc if session.service.ownership.writer else 0
            )
            await carry_out(await plan_sweep(late), store)
            assert set(left) <= set(await keys(store))
            await checked(store)
            await session.saved(11)
        await checked(store)

    run(act)


def test_rule_21_a_plan_carried_out_late_spares_what_a_newer_writer_saves() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        planned = await plan_sweep(await opened(store, "a"))
        async with Session(store) as session:
            await session.resume()
            await session.saved(10)
            await carry_out(planned, store)
            await session.saved(11)
        assert [c.step for c in (await checked(store)).checkpoints] == [1, 2, 3, 10, 11]

    run(act)


def test_rule_21_names_that_are_not_ours_stay_and_are_reported() -> None:
    strange = ["data/notes.txt", "data/00000001-step-1-i1-0123abcd/deeper/file", "data/backup/manifest.json"]

    async def act(store: MemoryStorage) -> None:
        await three(store)
        for key in (*strange, "elsewhere/file", "commits/notes.txt"):
            await store.put(key, [b"mine"])
        async with Session(store) as session:
            await session.resume()
        assert set(strange) | {"elsewhere/file", "commits/notes.txt"} <= set(await keys(store))
        told = {e.what for e in session.log.of(Leftover)}
        assert told == {f"{key} is not ours to place" for key in strange}

    run(act)


def test_rule_21_where_a_live_record_is_lost_all_data_stays() -> None:
    """Its record may have been the only one to name it."""

    async def act(store: MemoryStorage) -> None:
        await three(store)
        left = await leave(store, inc=1)
        before = await keys(store, names.DATA)
        await damage(store, names.record_key(3))
        async with Session(store) as session:
            await session.resume()
        assert await keys(store, names.DATA) == before
        assert set(left) <= set(before)
        listing = await Catalog(store).listing()
        assert sorted(listing.lost) == [3]
        assert [c.step for c in listing.checkpoints] == [1, 3]

    run(act)


def test_rule_21_a_sweep_that_fails_harms_nobody() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await leave(store, inc=1)
        gated = GatedStorage(store)
        gated.fail("list", "data/", StorageDenied, times=1)
        async with Session(gated) as session:
            await session.resume()
            await session.saved(4)
        assert [e.what for e in session.log.of(Leftover)] == ["the start's sweep"]
        assert await steps(store) == [1, 2, 3, 4]
        async with Session(store) as session:
            await session.resume()
        assert await leftovers(store) == []

    run(act)


def test_rule_21_the_sweep_holds_up_no_save() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        left = await leave(store, inc=1)
        gated = GatedStorage(store)
        gate = gated.hold("delete", left[0])
        async with Session(gated, keep=1) as session:
            await session.resume()
            for step in (4, 5, 6):
                await session.saved(step)
            assert set(left) <= set(await keys(store))
            gate.open()
        assert await leftovers(store) == []
        await checked(store)

    run(act)


def test_rule_21_unfinished_puts_of_earlier_writers_go_and_those_of_later_ones_stay(tmp_path: Path) -> None:
    async def act(_: MemoryStorage) -> None:
        async with Session(LocalStorage(tmp_path), keep=1) as session:
            await session.saved(1)
        old = [f".{n:016x}.tmp-{name}" for n, name in enumerate(("latest", "run.json", "probe"))]
        old += [f"commits/.{n:016x}.tmp-{n:010d}.json" for n in (1, 4)]
        old += [f"data/00000009-step-9-i1-0123abcd/.{0:016x}.tmp-manifest.json"]
        new = [f"commits/.{5:016x}.tmp-{5:010d}.json", f"data/00000009-step-9-i2-0123abcd/.{0:016x}.tmp-manifest.json"]
        store = LocalStorage(tmp_path)
        for upload in (*old, *new):
            (tmp_path / upload).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / upload).touch()
        writer = await opened(store)
        assert (writer.opened, writer.inc) == (4, 2)
        await carry_out(await plan_sweep(writer), store)
        assert sorted([upload.upload async for upload in store.uploads()]) == sorted(new)
        await store.aclose()

    run(act)


FOREIGN = [
    "seed1/data/00000009-step-9-i1-0123abcd/manifest.json",
    "seed1/commits/0000000001.json",
    "seed1/latest",
    "data/mine/pack.safetensors",
    "commits/notes.json",
    "user/notes.json",
    "report.html",
]


def test_rule_21_unfinished_puts_of_other_names_are_told_of_and_stay(tmp_path: Path) -> None:
    async def act(_: MemoryStorage) -> None:
        async with Session(LocalStorage(tmp_path)) as session:
            await session.saved(1)
        store = LocalStorage(tmp_path)
        for key in FOREIGN:
            folder, _slash, name = key.rpartition("/")
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f".{0:016x}.tmp-{name}").touch()
        (tmp_path / "seed1/empty").mkdir()
        async with Session(LocalStorage(tmp_path)) as session:
            await session.resume()
            await session.tidied()
        found = {upload.key async for upload in store.uploads()}
        assert found == {*FOREIGN, "seed1/empty/"}
        told = {event.what for event in session.log.of(Leftover)}
        assert told == {f"the unfinished put of {key} is not ours to place" for key in FOREIGN}
        await store.aclose()

    run(act)


def test_rule_21_where_uploads_may_not_be_listed_objects_go_all_the_same() -> None:
    class Hiding(MemoryStorage):
        async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
            raise StorageDenied(errno.EACCES, "s3:ListBucketMultipartUploads is not allowed")
            yield

    async def act(_: MemoryStorage) -> None:
        store = Hiding()
        await three(store)
        left = await leave(store, 1)
        async with Session(store) as session:
            await session.resume()
            await session.tidied()
        assert not set(left) & set(await keys(store))
        (told,) = session.log.of(Leftover)
        assert told.what == "unfinished puts, which could not be looked for"
        assert isinstance(told.error, StorageDenied)
        (swept,) = session.log.of(Swept)
        assert swept.objects > len(left)  # and the record of who left it

    run(act)


def test_rule_21_the_own_hints_are_never_taken_for_leftovers(tmp_path: Path) -> None:
    """The sweep goes on while the first save does, and a hint that is being written looks like one left behind."""

    async def act(_: MemoryStorage) -> None:
        async with Session(LocalStorage(tmp_path)) as session:
            await session.saved(1)
        gated = GatedStorage(LocalStorage(tmp_path))
        gate = gated.hold("list", "data/")
        async with Session(gated) as session:
            await session.resume()
            await session.saved(2)
            assert not gated.count("put", "latest")
            gate.open()
        assert gated.count("put", "latest") == 1
        assert session.log.of(Leftover) == []

    run(act)


# -- 18: hints -------------------------------------------------------------------------------------------------


def test_rule_18_hints_follow_the_head_and_the_best() -> None:
    async def act(store: MemoryStorage) -> None:
        async with Session(store, keep=2, monitor=("loss", "min")) as session:
            for step, loss in ((1, 0.5), (2, 0.1), (3, 0.3)):
                await session.saved(step, {"loss": loss})
        assert [b'"step":%d' % step in bytes(await store.get(n)) for n, step in (("latest", 3), ("best", 2))] == [
            True
        ] * 2

    run(act)


@pytest.mark.parametrize("hint", [None, b"", b"nonsense"])
def test_rule_18_hints_are_never_trusted(hint: bytes | None) -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        for name in (names.LATEST, names.BEST):
            await store.delete([name])
            if hint is not None:
                await store.put(name, [hint])
        assert (await Catalog(store).listing()).find("latest").step == 3
        gated = GatedStorage(store)
        async with Session(gated) as session:
            await session.resume()
            await session.saved(4)
        used = [key for _, key in gated.calls]
        before = used[: used.index(names.record_key(7))]
        assert not {names.LATEST, names.BEST} & set(before), "a writer goes by what it lists itself"
        assert await steps(store) == [1, 2, 3, 4]

    run(act)


@pytest.mark.parametrize("content", [b"", b"notes", b'{"folder": "data/"}', b"x" * 100_000])
def test_rule_18_a_file_of_somebody_else_that_is_named_as_a_hint_is_left_alone(content: bytes) -> None:
    async def act(store: MemoryStorage) -> None:
        await store.put(names.LATEST, [content])
        async with Session(store, monitor=("loss", "min")) as session:
            for step in (1, 2):
                await session.saved(step, {"loss": step})
            assert [e.what for e in session.log.of(Leftover)] == ["the hints latest and best"] * 2
            assert "latest is a file that asyncckpt did not write" in str(session.log.of(Leftover)[0].error)
            assert bytes(await store.get(names.LATEST)) == content
            assert b'"step":1' in bytes(await store.get(names.BEST))
            await store.delete([names.LATEST])
            await session.saved(3, {"loss": 3})
        assert b'"step":3' in bytes(await store.get(names.LATEST))
        assert await steps(store) == [1, 2, 3]

    run(act)


def test_rule_18_a_hint_that_was_damaged_is_still_known_as_one() -> None:
    async def act(store: MemoryStorage) -> None:
        await three(store)
        await damage(store, names.LATEST)
        async with Session(store) as session:
            await session.saved(4)
            assert session.log.of(Leftover) == []
        assert b'"step":4' in bytes(await store.get(names.LATEST))

    run(act)


def test_rule_18_whose_file_a_hint_would_replace_is_looked_at_once() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated) as session:
            for step in (1, 2, 3):
                await session.saved(step)
        assert gated.count("get", names.LATEST) == 1

    run(act)


def test_rule_18_links_lead_to_the_folder_also_where_the_hint_has_no_room(tmp_path: Path) -> None:
    async def act(_: MemoryStorage) -> None:
        (tmp_path / "latest").write_text("notes")
        async with Session(LocalStorage(tmp_path)) as session:
            await session.saved(1)
        assert (tmp_path / "latest").read_text() == "notes"
        assert (tmp_path / "checkpoints" / "latest" / "manifest.json").is_file()

    run(act)


def test_rule_18_a_hint_that_fails_is_an_event_and_no_failure() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        gated.fail("put", names.LATEST, StorageDenied)
        async with Session(gated, keep=1) as session:
            for step in (1, 2, 3):
                await session.saved(step)
        assert [e.what for e in session.log.of(Leftover)] == ["the hints latest and best"] * 3
        assert (await steps(store), await leftovers(store)) == ([3], [])

    run(act)


def test_rule_18_hints_are_written_once_the_checkpoint_is_durable() -> None:
    async def act(store: MemoryStorage) -> None:
        gated = GatedStorage(store)
        async with Session(gated) as session:
            await session.saved(1)
        order = [key for request, key in gated.calls if request in ("reply", "list")]
        assert order.index("latest") > len(order) - 1 - order[::-1].index("commits/0000000002.json")
        assert order[order.index("commits/0000000002.json") + 1] == "commits/"

    run(act)
