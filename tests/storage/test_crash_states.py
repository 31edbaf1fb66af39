"""The crash model itself: which states it says a disk can be in, on recordings small enough to count by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncckpt.storage.files import Files
from asyncckpt.testing.crash import CrashState, RecordingFiles, SymbolicLink, crash_states, materialise
from asyncckpt.testing.stepping import SteppingFiles, count_calls, interleave


def trees(recording: RecordingFiles) -> list[dict[str, object]]:
    return [dict(state.tree) for state in crash_states(recording)]


def write(files: Files, path: str, data: bytes, *, sync: bool) -> None:
    descriptor = files.create(path)
    files.write(descriptor, memoryview(data), 0)
    if sync:
        files.sync(descriptor)
    files.close(descriptor)


@pytest.fixture
def recording(tmp_path: Path) -> RecordingFiles:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/before").write_bytes(b"before")
    return RecordingFiles(tmp_path / "disk")


def test_nothing_done_is_the_state_before(recording: RecordingFiles) -> None:
    assert trees(recording) == [{"before": b"before"}]


def test_an_unsynced_file_may_be_anything(recording: RecordingFiles, tmp_path: Path) -> None:
    write(recording, str(tmp_path / "disk/new"), b"abcd", sync=False)
    contents = [tree.get("new") for tree in trees(recording)]
    assert len(contents) == len(set(contents))
    assert set(contents) == {None, b"", b"ab", b"\0\0\0\0", b"abcd"}


def test_a_synced_file_in_an_unsynced_folder_is_whole_or_absent(recording: RecordingFiles, tmp_path: Path) -> None:
    write(recording, str(tmp_path / "disk/new"), b"abcd", sync=True)
    recording.mark("synced")
    after = [state.tree.get("new") for state in crash_states(recording) if state.reached]
    assert set(after) == {None, b"abcd"}


def test_with_both_synced_it_is_there(recording: RecordingFiles, tmp_path: Path) -> None:
    write(recording, str(tmp_path / "disk/new"), b"abcd", sync=True)
    recording.sync_folder(str(tmp_path / "disk"))
    recording.mark("durable")
    after = [dict(state.tree) for state in crash_states(recording) if state.reached]
    assert after == [{"before": b"before", "new": b"abcd"}]


def test_bytes_written_after_the_sync_may_be_lost(recording: RecordingFiles, tmp_path: Path) -> None:
    descriptor = recording.create(str(tmp_path / "disk/new"))
    recording.sync_folder(str(tmp_path / "disk"))
    recording.write(descriptor, memoryview(b"ab"), 0)
    recording.sync(descriptor)
    recording.write(descriptor, memoryview(b"cdXX"), 2)
    recording.truncate(descriptor, 4)
    recording.close(descriptor)
    recording.mark("written")
    after = {state.tree["new"] for state in crash_states(recording) if state.reached}
    assert after == {b"ab", b"abcd", b"\0\0\0\0"}


def test_reserved_space_is_zeros(recording: RecordingFiles, tmp_path: Path) -> None:
    descriptor = recording.create(str(tmp_path / "disk/new"))
    recording.reserve(descriptor, 3)
    recording.write(descriptor, memoryview(b"abcde"), 0)
    recording.reserve(descriptor, 2)
    recording.close(descriptor)
    assert {tree.get("new") for tree in trees(recording)} == {None, b"", b"\0", b"\0" * 3, b"ab", b"\0" * 5, b"abcde"}


def test_a_lost_folder_takes_along_what_is_in_it(recording: RecordingFiles, tmp_path: Path) -> None:
    recording.mkdir(str(tmp_path / "disk/folder"))
    write(recording, str(tmp_path / "disk/folder/new"), b"x", sync=True)
    recording.sync_folder(str(tmp_path / "disk/folder"))
    recording.mark("returned")
    after = [set(state.tree) for state in crash_states(recording) if state.reached]
    assert sorted(map(sorted, after)) == [["before"], ["before", "folder", "folder/new"]]


def test_a_rename_is_whole(recording: RecordingFiles, tmp_path: Path) -> None:
    write(recording, str(tmp_path / "disk/new"), b"x", sync=True)
    recording.sync_folder(str(tmp_path / "disk"))
    recording.replace(str(tmp_path / "disk/new"), str(tmp_path / "disk/before"))
    recording.mark("renamed")
    after = [dict(state.tree) for state in crash_states(recording) if state.reached]
    assert sorted(after, key=len) == [{"before": b"x"}, {"before": b"before", "new": b"x"}]


def test_a_deletion_may_be_lost(recording: RecordingFiles, tmp_path: Path) -> None:
    recording.unlink(str(tmp_path / "disk/before"))
    assert trees(recording) == [{"before": b"before"}, {}]
    recording.sync_folder(str(tmp_path / "disk"))
    recording.mark("durable")
    assert [dict(state.tree) for state in crash_states(recording) if state.reached] == [{}]


def test_few_losses_come_in_every_combination_many_one_by_one(recording: RecordingFiles, tmp_path: Path) -> None:
    for number in range(8):
        recording.symlink("x", str(tmp_path / f"disk/{number}"))
    recording.mark("all")

    def kept(few: int) -> list[int]:
        return sorted(len(state.tree) - 1 for state in crash_states(recording, few=few) if state.reached)

    assert len(kept(8)) == 2**8
    assert kept(7) == [0, *[1] * 8, *[7] * 8, 8]


def test_the_same_content_at_another_mark_is_another_state(recording: RecordingFiles) -> None:
    recording.mark("one")
    recording.mark("two")
    assert [state.reached for state in crash_states(recording)] == [(), ("one",), ("one", "two")]


def test_what_is_recorded_also_happens(recording: RecordingFiles, tmp_path: Path) -> None:
    write(recording, str(tmp_path / "disk/a"), b"a", sync=True)
    recording.link(str(tmp_path / "disk/a"), str(tmp_path / "disk/b"))
    recording.rename(str(tmp_path / "disk/b"), str(tmp_path / "disk/c"))
    recording.mkdir(str(tmp_path / "disk/d"))
    recording.rmdir(str(tmp_path / "disk/d"))
    recording.symlink("a", str(tmp_path / "disk/e"))
    recording.unlink(str(tmp_path / "disk/before"))
    *_, last = crash_states(recording)
    everything = [state for state in crash_states(recording) if state.story.endswith("not kept: nothing")][-1]
    assert everything.tree == {"a": b"a", "c": b"a", "e": SymbolicLink("a")}
    assert sorted(os.listdir(tmp_path / "disk")) == ["a", "c", "e"]
    assert last.story


def test_a_state_becomes_a_disk(tmp_path: Path) -> None:
    state = CrashState({"a": None, "a/b": b"x", "l": SymbolicLink("a/b"), ".h": b""}, (), "")
    materialise(state, tmp_path / "disk")
    assert (tmp_path / "disk/a/b").read_bytes() == b"x"
    assert os.readlink(tmp_path / "disk/l") == "a/b"
    assert (tmp_path / "disk/.h").read_bytes() == b""


def test_a_call_can_be_stopped_before_and_resumed(tmp_path: Path) -> None:
    seen: list[str] = []

    def first(files: Files) -> str:
        files.mkdir(str(tmp_path / "a"))
        files.mkdir(str(tmp_path / "b"))
        seen.append("first")
        return "first"

    def second() -> str:
        seen.append("second")
        assert os.listdir(tmp_path) == ["a"]
        return "second"

    assert count_calls(lambda files: files.mkdir(str(tmp_path / "count"))) == 1
    os.rmdir(tmp_path / "count")
    assert interleave(first, second, stop_before=1) == ("first", "second")
    assert seen == ["second", "first"]


def test_what_never_comes_to_the_call_runs_first(tmp_path: Path) -> None:
    assert interleave(lambda files: files.mkdir(str(tmp_path / "a")), lambda: os.listdir(tmp_path), stop_before=7) == (
        None,
        ["a"],
    )


def test_failures_of_either_side_come_out(tmp_path: Path) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interleave(lambda files: files.mkdir(str(tmp_path / "a")), fails, stop_before=0)
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(FileExistsError):
        interleave(lambda files: files.mkdir(str(tmp_path / "a")), lambda: None, stop_before=0)


def test_calls_are_named(tmp_path: Path) -> None:
    files = SteppingFiles()
    write(files, str(tmp_path / "a"), b"x", sync=True)
    assert [call.split()[0] for call in files.calls] == ["create", "write", "sync", "close"]
    assert all(str(tmp_path / "a") in call for call in files.calls)
