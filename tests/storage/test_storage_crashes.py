"""After a crash at any point: the old object or the new one, never a torn one, and the new one once put returned."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from asyncckpt.errors import ObjectExists, ObjectNotFound
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing import files as poorer
from asyncckpt.testing.crash import CrashState, RecordingFiles, SymbolicLink, crash_states, materialise
from asyncckpt.testing.store import aligned, keys, stream, unfinished, use

Act: TypeAlias = Callable[[LocalStorage], Awaitable[object]]

OLD, NEW = b"the old content", b"what is new is longer"
BIG = b"".join(aligned([5000]))


class WithoutTmpfile(poorer.WithoutTmpfile, RecordingFiles):
    pass


class WithoutLinks(poorer.WithoutLinks, RecordingFiles):
    pass


class Claimed(poorer.WithoutLinks, poorer.WithoutNoReplace, RecordingFiles):
    pass


class WithoutSync(RecordingFiles):
    def sync(self, descriptor: int) -> None:
        pass


class WithoutFolderSync(RecordingFiles):
    def sync_folder(self, path: str) -> None:
        pass


class SyncsOnlyTheLastFolder(RecordingFiles):
    def sync_folder(self, path: str) -> None:
        if path.endswith("/b"):
            super().sync_folder(path)


def record(
    disk: Path, act: Act, files: type[RecordingFiles] = RecordingFiles, before: dict[str, bytes] | None = None
) -> RecordingFiles:
    """Do `act` on the store in ``disk/run`` that holds `before`, with the recording watching only `act`."""
    disk.mkdir()

    async def fill(store: Storage) -> None:
        for key, whole in (before or {}).items():
            await store.put(key, [whole])

    use(LocalStorage(disk / "run"), fill)
    recording = files(disk)
    store = LocalStorage(disk / "run", files=recording)

    async def main(_: Storage) -> None:
        await act(store)
        recording.mark("returned")

    use(store, main)
    return recording


def found(state: CrashState, place: Path, key: str) -> bytes | None:
    """What a new store makes of the disk after the crash; it must also be able to tidy up and go on."""
    materialise(state, place)

    async def act(store: Storage) -> bytes | None:
        listed = await keys(store)
        try:
            whole = bytes(await store.get(key))
        except ObjectNotFound:
            whole = None
        assert (key in listed) == (whole is not None)
        for upload in await unfinished(store):
            await store.abort(upload)
        assert await unfinished(store) == []
        await store.put(key, [b"next"])
        return whole

    return use(LocalStorage(place / "run"), act)


Seen: TypeAlias = list[tuple[bool, bytes | None, str]]


def outcomes(recording: RecordingFiles, tmp_path: Path, key: str) -> Seen:
    """For each state: whether the call had returned, what is there, and the state's story."""
    return [
        ("returned" in state.reached, found(state, tmp_path / f"after-{number}", key), state.story)
        for number, state in enumerate(crash_states(recording))
    ]


def wrong(seen: Seen, old: bytes | None, new: bytes | None) -> list[str]:
    return [f"{whole!r} {story}" for returned, whole, story in seen if whole != new and (returned or whole != old)]


def put(key: str, whole: bytes = NEW) -> Act:
    return lambda store: store.put(key, [whole])


def create(key: str) -> Act:
    return lambda store: store.put(key, [NEW], mode="create")


ACTS: dict[str, tuple[Act, dict[str, bytes], str, bytes | None, bytes | None]] = {
    "first put": (put("a/b/c"), {}, "a/b/c", None, NEW),
    "put beside": (put("a/b/c"), {"a/b/d": OLD}, "a/b/c", None, NEW),
    "overwrite": (put("a/b/c"), {"a/b/c": OLD}, "a/b/c", OLD, NEW),
    "stream": (lambda store: store.put("a", stream([BIG]), length=len(BIG)), {}, "a", None, BIG),
    "stream over": (lambda store: store.put("a", stream([BIG])), {"a": OLD}, "a", OLD, BIG),
    "create": (create("a/b/c"), {}, "a/b/c", None, NEW),
    "create beside": (create("a/b/c"), {"a/b/d": OLD}, "a/b/c", None, NEW),
    "delete": (lambda store: store.delete(["a/b"]), {"a/b": OLD, "a/c": OLD}, "a/b", OLD, None),
    "delete the last": (lambda store: store.delete(["a/b/c"]), {"a/b/c": OLD}, "a/b/c", OLD, None),
}


@pytest.mark.parametrize(("act", "before", "key", "old", "new"), ACTS.values(), ids=ACTS)
def test_a_crash_leaves_the_old_or_the_new(
    tmp_path: Path, act: Act, before: dict[str, bytes], key: str, old: bytes | None, new: bytes | None
) -> None:
    recording = record(tmp_path / "disk", act, before=before)
    seen = outcomes(recording, tmp_path, key)
    assert wrong(seen, old, new) == []
    assert {whole for _, whole, _ in seen} == {old, new}


@pytest.mark.parametrize("files", [WithoutTmpfile, WithoutLinks])
@pytest.mark.parametrize("before", [{}, {"a/b/d": OLD}])
def test_every_whole_way_of_creating_is_whole(
    tmp_path: Path, files: type[RecordingFiles], before: dict[str, bytes]
) -> None:
    recording = record(tmp_path / "disk", create("a/b/c"), files, before)
    assert wrong(outcomes(recording, tmp_path, "a/b/c"), None, NEW) == []


def test_the_torn_way_is_torn_only_before_it_returns(tmp_path: Path) -> None:
    recording = record(tmp_path / "disk", create("a/b/c"), Claimed)
    seen = [(returned, whole) for returned, whole, _ in outcomes(recording, tmp_path, "a/b/c")]
    assert {whole for returned, whole in seen if returned} == {NEW}
    assert {whole for returned, whole in seen} == {None, b"", NEW}


def test_a_create_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    async def act(store: LocalStorage) -> None:
        with pytest.raises(ObjectExists):
            await store.put("a", [NEW], mode="create")

    recording = record(tmp_path / "disk", act, before={"a": OLD})
    assert wrong(outcomes(recording, tmp_path, "a"), OLD, OLD) == []


def test_put_delete_put(tmp_path: Path) -> None:
    async def act(store: LocalStorage) -> None:
        await store.put("a/b", [b"first"])
        await store.delete(["a/b"])
        await store.put("a/b", [NEW])

    recording = record(tmp_path / "disk", act)
    seen = {(returned, whole) for returned, whole, _ in outcomes(recording, tmp_path, "a/b")}
    assert seen == {(False, None), (False, b"first"), (False, NEW), (True, NEW)}


def test_puts_at_the_same_time(tmp_path: Path) -> None:
    async def act(store: LocalStorage) -> None:
        await asyncio.gather(*(store.put(f"a/{name}", [NEW]) for name in "bcd"))

    recording = record(tmp_path / "disk", act)
    assert wrong(outcomes(recording, tmp_path, "a/c"), None, NEW) == []


def test_a_folder_that_a_killed_process_left_unsynced(tmp_path: Path) -> None:
    """It is there, but not yet durable: a put into it has to sync the folders above as well."""

    async def act(store: LocalStorage) -> None:
        for folder in ("run", "run/a", "run/a/b"):
            recording.mkdir(str(tmp_path / "disk" / folder))
        recording.sync_folder(str(tmp_path / "disk"))
        await store.put("a/b/c", [NEW])
        recording.mark("returned")

    (tmp_path / "disk").mkdir()
    recording = RecordingFiles(tmp_path / "disk")
    store = LocalStorage(tmp_path / "disk/run", files=recording)
    use(store, lambda _: act(store))
    assert wrong(outcomes(recording, tmp_path, "a/b/c"), None, NEW) == []


def test_a_root_far_down_is_durable(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    recording = RecordingFiles(tmp_path / "disk")
    use(LocalStorage(tmp_path / "disk/x/y/z", files=recording), lambda store: store.put("a", [NEW]))
    recording.mark("returned")
    after = [state.tree for state in crash_states(recording) if state.reached]
    assert after
    assert all(tree.get("x/y/z/a") == NEW for tree in after)


@pytest.mark.parametrize(
    ("files", "act", "before", "new"),
    [
        (WithoutSync, put("a/b/c"), {"a/b/c": OLD}, NEW),
        (WithoutSync, create("a/b/c"), {}, NEW),
        (WithoutFolderSync, put("a/b/c"), {"a/b/c": OLD}, NEW),
        (WithoutFolderSync, create("a/b/c"), {}, NEW),
        (WithoutFolderSync, lambda store: store.delete(["a/b/c"]), {"a/b/c": OLD}, None),
        (SyncsOnlyTheLastFolder, put("a/b/c"), {}, NEW),
    ],
)
def test_a_missing_sync_is_caught(
    tmp_path: Path, files: type[RecordingFiles], act: Act, before: dict[str, bytes], new: bytes | None
) -> None:
    recording = record(tmp_path / "disk", act, files, before)
    assert wrong(outcomes(recording, tmp_path, "a/b/c"), before.get("a/b/c"), new) != []


def test_a_rename_before_the_sync_is_caught(tmp_path: Path) -> None:
    class TooLate(RecordingFiles):
        """Syncs the file only after its folder."""

        def __init__(self, base: Path) -> None:
            super().__init__(base)
            self.kept = -1

        def sync(self, descriptor: int) -> None:
            self.kept = os.dup(descriptor)

        def sync_folder(self, path: str) -> None:
            super().sync_folder(path)
            os.close(self.kept)

    recording = record(tmp_path / "disk", put("a"), TooLate, {"a": OLD})
    torn = wrong(outcomes(recording, tmp_path, "a"), OLD, NEW)
    assert any(story.startswith("b''") for story in torn)
    assert any(story.startswith(repr(bytes(len(NEW)))) for story in torn)
    assert any(story.startswith(repr(NEW[: len(NEW) // 2])) for story in torn)


def test_a_link_is_always_whole(tmp_path: Path) -> None:
    async def act(store: LocalStorage) -> None:
        await store.link("latest", "data/1")
        await store.link("latest", "data/2")

    recording = record(tmp_path / "disk", act, before={"data/1/x": b"1", "data/2/x": b"2"})
    targets = {state.tree.get("run/latest") for state in crash_states(recording)}
    assert targets == {None, SymbolicLink("data/1"), SymbolicLink("data/2")}
