"""The small tools of seed system A (features A1, A2, A5, A6, A15, A21)."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.run import (
    ensure_directories_exist,
    ensure_directories_exist_async,
    find_latest_checkpoint,
    find_latest_checkpoint_async,
    set_seed,
)
from asyncckpt.testing.slow import PATIENCE


def saved(path: Path, at: float | None = None) -> Path:
    """A checkpoint as ``torch.save`` writes it, changed `at` that time."""
    torch.save({"weight": torch.arange(1000.0)}, path)
    if at is not None:
        os.utime(path, (at, at))
    return path


# -- A1 ----------------------------------------------------------------------------------------------------


def test_a1_a_missing_and_an_empty_folder_have_none(tmp_path: Path) -> None:
    assert find_latest_checkpoint(tmp_path / "absent") is None
    assert find_latest_checkpoint(tmp_path) is None
    (tmp_path / "file").touch()
    assert find_latest_checkpoint(tmp_path / "file") is None


def test_a1_without_steps_the_newest_file_is_taken(tmp_path: Path) -> None:
    for name, at in (("a.pt", 100), ("b.pt", 300), ("c.pt", 200)):
        saved(tmp_path / name, at)
    found = find_latest_checkpoint(str(tmp_path))
    assert found == str(tmp_path / "b.pt")


def test_a1_steps_count_before_times_and_as_numbers(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint_step_1000.pt", 100)
    saved(tmp_path / "checkpoint_step_900.pt", 300)  # copied last
    saved(tmp_path / "final.pt", 400)
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_step_1000.pt")


def test_a1_where_times_are_the_same_the_step_counts(tmp_path: Path) -> None:
    for step in (9, 10, 2):
        saved(tmp_path / f"epoch1-step{step}.pt", 100)
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "epoch1-step10.pt")


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    match kind:
        case "empty":
            data = bytearray()
        case "truncated":
            del data[len(data) // 2 :]
        case "random":
            data = bytearray(random.Random(0).randbytes(5000))
        case "text":
            data = bytearray(b"not found")
        case "bit":
            where = data.index(np.float32(500.0).tobytes())
            data[where] ^= 1
        case "bit of the directory":  # by which the file says that it is encrypted
            data[data.rindex(b"PK\1\2") + 8] ^= 1
        case "other archive":
            import zipfile

            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.txt", "text")
            return
    path.write_bytes(data)


@pytest.mark.parametrize(
    "kind", ["empty", "truncated", "random", "text", "bit", "bit of the directory", "other archive"]
)
def test_a1_a_damaged_newest_one_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    saved(tmp_path / "step1.pt")
    damage(saved(tmp_path / "step2.pt"), kind)
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step1.pt")
    assert "step2.pt is damaged and passed over" in caplog.text


def test_a1_one_flipped_bit_is_what_torch_does_not_see(tmp_path: Path) -> None:
    damage(saved(tmp_path / "step1.pt"), "bit")
    assert torch.load(tmp_path / "step1.pt")["weight"][500] != 500
    assert find_latest_checkpoint(tmp_path) is None


def test_a1_where_all_are_damaged_there_is_none_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in range(3):
        damage(saved(tmp_path / f"step{step}.pt"), "truncated")
    assert find_latest_checkpoint(tmp_path) is None
    assert f"all 3 checkpoints in {tmp_path} are damaged" in caplog.text


def test_a1_files_of_the_old_format_are_taken(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "step1.pt", _use_new_zipfile_serialization=False)
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step1.pt")


def test_a1_files_that_vanish_meanwhile_are_no_error(tmp_path: Path) -> None:
    saved(tmp_path / "step0.pt")
    for step in range(1, 200):
        (tmp_path / f"step{step}.pt").hardlink_to(tmp_path / "step0.pt")
    has_begun = threading.Event()

    def remove() -> None:
        for step in range(199, 0, -1):
            (tmp_path / f"step{step}.pt").unlink()
            has_begun.set()

    thread = threading.Thread(target=remove)
    thread.start()
    has_begun.wait(60)
    found = [find_latest_checkpoint(tmp_path) for _ in range(50)]
    thread.join()
    assert None not in found
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step0.pt")


def test_a1_a_file_that_vanishes_while_the_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "step1.pt")
    newest = saved(tmp_path / "step2.pt")
    scan = os.scandir

    def listed(folder: Path) -> Any:
        with scan(folder) as entries:
            found = list(entries)
        newest.unlink(missing_ok=True)
        return nullcontext(found)

    monkeypatch.setattr("os.scandir", listed)
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step1.pt")


def test_a1_a_file_that_vanishes_between_the_look_and_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from asyncckpt.run import foreign

    saved(tmp_path / "step1.pt")
    newest = saved(tmp_path / "step2.pt")
    check = foreign._damage

    def vanished(path: Path) -> str | None:
        newest.unlink(missing_ok=True)
        return check(path)

    monkeypatch.setattr(foreign, "_damage", vanished)
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step1.pt")
    assert caplog.records == [], "what is gone is not damaged"


def test_a15_ten_thousand_files_are_looked_through_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncckpt.run import foreign

    saved(tmp_path / "step0.pt")
    for step in range(1, 10_000):
        (tmp_path / f"step{step}.pt").hardlink_to(tmp_path / "step0.pt")
    checked: list[Path] = []
    check = foreign._damage
    monkeypatch.setattr(foreign, "_damage", lambda path: (checked.append(path), check(path))[1])
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step9999.pt")
    assert len(checked) == 1  # the newest alone is read


class Gate:
    """Holds up whoever calls `held`, until it is opened."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self._is_open = threading.Event()

    def held(self, *given: Any, **named: Any) -> Any:
        assert self._is_open.wait(PATIENCE), "the event loop stood still, and nobody could open"
        return self._real(*given, **named)

    async def pass_by(self, waiting: Coroutine[Any, Any, Any]) -> Any:
        """What `waiting` returns; the loop goes on meanwhile, or the gate stays shut."""
        task = asyncio.ensure_future(waiting)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        self._is_open.set()
        return await task


def test_a21_on_an_event_loop_it_is_the_same_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncckpt.run import foreign

    saved(tmp_path / "step1.pt")
    path = saved(tmp_path / "step1.pth")
    gate = Gate(foreign._damage)
    monkeypatch.setattr(foreign, "_damage", gate.held)
    assert asyncio.run(gate.pass_by(find_latest_checkpoint_async(tmp_path, "*.pth"))) == str(path)


def test_a21_folders_are_made_while_the_event_loop_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(Path.mkdir)

    def mkdir(folder: Path, *given: Any, **named: Any) -> None:
        gate.held(folder, *given, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    asyncio.run(gate.pass_by(ensure_directories_exist_async(tmp_path / "a/b", tmp_path / "c")))
    assert (tmp_path / "a/b").is_dir()
    assert (tmp_path / "c").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is no folder"):
        asyncio.run(ensure_directories_exist_async(tmp_path / "file"))


# -- A2 ----------------------------------------------------------------------------------------------------


def test_a2_the_pattern_is_pt_unless_another_is_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert inspect.signature(find_latest_checkpoint).parameters["pattern"].default == "*.pt"
    kept = saved(tmp_path / "step1.pt")
    for name in ("step2.pth", "step3.pt.tmp", ".step4.pt", "step5.pt.part"):
        saved(tmp_path / name)
    (tmp_path / "step6.pt").mkdir()
    assert find_latest_checkpoint(tmp_path) == str(kept)
    assert find_latest_checkpoint(tmp_path, "*.pth") == str(tmp_path / "step2.pth")
    assert find_latest_checkpoint(tmp_path, "*.ckpt") is None
    assert caplog.records == [], "what is no checkpoint is not a damaged one"


def test_a2_links_are_no_checkpoints_of_their_own(tmp_path: Path) -> None:
    kept = saved(tmp_path / "step1.pt")
    (tmp_path / "latest_99.pt").symlink_to("step1.pt")
    (tmp_path / "dangling_100.pt").symlink_to("step0.pt")
    assert find_latest_checkpoint(tmp_path) == str(kept)


def test_a2_a_link_to_a_file_on_another_disk_is_that_checkpoint(tmp_path: Path) -> None:
    """So a folder that is full is gone on with: the file is moved away, and the link has its name."""
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    saved(tmp_path / "here/step1.pt")
    saved(tmp_path / "elsewhere/step2.pt")
    (tmp_path / "here/step2.pt").symlink_to("../elsewhere/step2.pt")
    assert find_latest_checkpoint(tmp_path / "here") == str(tmp_path / "here/step2.pt")


# -- A5 ----------------------------------------------------------------------------------------------------


def test_a5_folders_are_made_again_and_again(tmp_path: Path) -> None:
    folders = [tmp_path / "a/b/c/d", tmp_path / "a/e", tmp_path / "f"]
    for _ in range(2):
        ensure_directories_exist(*folders, str(tmp_path / "text"))
    assert all(folder.is_dir() for folder in [*folders, tmp_path / "text"])


def test_a5_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for folder, blocking in (("file", "file"), ("file/below/it", "file"), ("link", "link")):
        with pytest.raises(NotADirectoryError, match=rf"{tmp_path / blocking} is no folder"):
            ensure_directories_exist(tmp_path / "first", tmp_path / folder)
    assert (tmp_path / "first").is_dir()


def test_a5_a_folder_that_may_not_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *arguments: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PermissionError, match=rf"may not write in {tmp_path}; take another path"):
        ensure_directories_exist(tmp_path / "new" / "below" / "it")


def test_a5_modes_are_what_the_umask_leaves(tmp_path: Path) -> None:
    program = (
        "import os, sys; from asyncckpt.folders import ensure_directories_exist; os.umask(0o027); "
        "ensure_directories_exist(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a/b")], check=True)
    assert [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a", "a/b")] == [0o750, 0o750]


# -- A6 ----------------------------------------------------------------------------------------------------


@pytest.fixture
def _as_before() -> object:
    """Generators, flags and the environment are put back."""
    cudnn = torch.backends.cudnn
    before = random.getstate(), np.random.get_state(), torch.get_rng_state(), cudnn.deterministic, cudnn.benchmark
    hashing = os.environ.get("PYTHONHASHSEED")
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
    cudnn.deterministic, cudnn.benchmark = before[3:]
    os.environ.pop("PYTHONHASHSEED", None)
    if hashing is not None:
        os.environ["PYTHONHASHSEED"] = hashing


def draws() -> tuple[float, ...]:
    return random.random(), np.random.rand(), torch.rand(1).item()


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_a6_every_generator_draws_the_same_again(seed: int) -> None:
    torch.backends.cudnn.benchmark = True
    set_seed(seed)
    first = draws()
    assert draws() != first
    set_seed(seed)
    assert draws() == first
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["PYTHONHASHSEED"] == str(seed % 2**32)
    set_seed(seed + 1)
    assert draws() != first


@pytest.mark.usefixtures("_as_before")
def test_a6_none_seeds_nothing() -> None:
    set_seed(1)
    expected = draws()
    set_seed(1)
    set_seed(None)
    assert draws() == expected


@pytest.mark.usefixtures("_as_before")
def test_a6_flags_stay_where_that_is_wanted() -> None:
    torch.backends.cudnn.deterministic = False
    set_seed(1, deterministic=False)
    assert not torch.backends.cudnn.deterministic


@pytest.mark.usefixtures("_as_before")
def test_a6_a_seed_after_a_resume_does_not_undo_the_restored_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_seed(7)
    with AsyncCheckpointer(tmp_path / "run", model=nn.Linear(2, 2)) as ckpt:
        ckpt.save(1).wait()
        expected = draws()
    with AsyncCheckpointer(tmp_path / "run", model=nn.Linear(2, 2)) as ckpt:
        ckpt.resume()
        set_seed(7)  # as a program does whose configuration has a seed
        assert draws() == expected
    assert "comes after a checkpoint's random state was restored" in caplog.text
    set_seed(7)  # another training in this process
    first = draws()
    set_seed(7)
    assert draws() == first
