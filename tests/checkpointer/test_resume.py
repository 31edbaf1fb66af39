"""Resuming and restoring: from what is sound, past what is damaged, and never silently from nothing."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

import asyncckpt
from asyncckpt import AsyncCheckpointer, RetentionPolicy, load
from asyncckpt.errors import (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    HeadDamaged,
    RunRefused,
    SaveFailed,
    StorageDenied,
    StorageError,
    TransientError,
    UnsupportedFormat,
)
from asyncckpt.events import Damaged
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Elsewhere, Recorder, Toy, once_it_waits, saved, steps, tree

pytestmark = pytest.mark.executors


def folder_of(root: Path, step: int) -> Path:
    (found,) = root.glob(f"data/*-step-{step}-*")
    return found


def pack_of(root: Path, step: int) -> Path:
    (found,) = folder_of(root, step).glob("*.safetensors")
    return found


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path, int], None]] = {
    "a flipped bit": lambda root, step: flip(pack_of(root, step)),
    "a flipped bit in the header of a pack": lambda root, step: flip(pack_of(root, step), 20),
    "a byte behind a pack": lambda root, step: append(pack_of(root, step)),
    "a pack without its last byte": lambda root, step: os.truncate(
        pack_of(root, step), pack_of(root, step).stat().st_size - 1
    ),
    "a truncated pack": lambda root, step: os.truncate(pack_of(root, step), 4100),
    "an empty pack": lambda root, step: os.truncate(pack_of(root, step), 0),
    "zeros instead of bytes": lambda root, step: zero(pack_of(root, step)),
    "a pack that is gone": lambda root, step: pack_of(root, step).unlink(),
    "a manifest that is gone": lambda root, step: (folder_of(root, step) / "manifest.json").unlink(),
    "a flipped bit in the manifest": lambda root, step: flip(folder_of(root, step) / "manifest.json", 40),
    "an empty manifest": lambda root, step: os.truncate(folder_of(root, step) / "manifest.json", 0),
    "another checkpoint's manifest": lambda root, step: shutil.copy(
        folder_of(root, step - 1) / "manifest.json", folder_of(root, step) / "manifest.json"
    ),
    "a folder that is gone": lambda root, step: shutil.rmtree(folder_of(root, step)),
}

damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))


@damaged
def test_P11_resume_reports_a_damaged_checkpoint_and_takes_the_one_before_it(
    make: Make,
    root: Path,
    recorder: Recorder,
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path, int], None],
) -> None:
    damage(root, 3)
    toy = Toy()
    ckpt = make(root, model=toy)
    state = ckpt.resume()
    assert (state.step, toy.value) == (2, 2)
    (event,) = recorder.of(Damaged)
    assert (event.step, event.seq) == (3, 3)
    assert str(root) in event.reason
    assert registry.get_sample_value("asyncckpt_damaged_checkpoints_total", {"reason": event.kind}) == 1
    assert "(step 3) is damaged and is left as it is" in caplog.text
    assert steps(ckpt) == [1, 2, 3]


def test_resume_passes_a_pack_that_the_disk_cannot_read(make: Make, root: Path, recorder: Recorder) -> None:
    store = GatedStorage(LocalStorage(root))
    store.fail("get", "data/*-step-3-*", lambda: StorageError(errno.EIO, "Input/output error"))
    toy = Toy()
    assert make(store, model=toy).resume().step == 2
    assert toy.value == 2
    assert "Input/output error" in recorder.of(Damaged)[0].reason


@pytest.mark.parametrize("at", ["data/*-step-3-*.safetensors", "data/*-step-3-*/manifest.json"])
@pytest.mark.parametrize(
    "error",
    [
        StorageDenied(errno.EACCES, "access denied"),
        TransientError(errno.EAGAIN, "out of reach"),
        StorageError(errno.EMFILE, "Too many open files"),
        StorageError(errno.EPROTO, "an answer that nobody knows"),
    ],
    ids=lambda error: errno.errorcode[error.errno],
)
def test_a_store_that_cannot_be_read_any_more_never_makes_a_resume_step_back(
    make: Make, root: Path, recorder: Recorder, error: StorageError, at: str
) -> None:
    store = GatedStorage(LocalStorage(root))
    store.fail("get", at, lambda: error)
    toy = Toy()
    ckpt = make(store, model=toy, overwrite=True)
    with pytest.raises(type(error), match=f"the store cannot be read: {error.strerror}"):
        ckpt.resume()
    assert recorder.of(Damaged) == []
    store.heal()
    assert ckpt.resume().step == 3
    assert toy.value == 3


def test_retention_never_deletes_what_was_found_damaged(make: Make, root: Path) -> None:
    flip(pack_of(root, 3))
    ckpt = make(root, model=Toy(), keep=RetentionPolicy(last=2))
    assert ckpt.resume().step == 2
    for step in (4, 5, 6):
        ckpt.save(step).wait()
    ckpt.close()
    assert steps(make(root, model=Toy())) == [3, 5, 6]
    assert pack_of(root, 3).exists()


def test_P5_what_was_found_damaged_stays_also_when_the_worker_dies(make: Make, root: Path) -> None:
    flip(pack_of(root, 3))
    store = GatedStorage(LocalStorage(root))
    ckpt = make(store, model=Toy(), keep=RetentionPolicy(last=1))
    assert ckpt.resume().step == 2
    store.fail("put", "data/*", SystemExit, times=1)
    with pytest.raises(SaveFailed):
        ckpt.save(4).wait()
    ckpt.save(5).wait()
    assert steps(ckpt) == [3, 5]


@pytest.mark.parametrize("damage", [lambda path: flip(path, 20), append], ids=["header", "length"])
def test_a_pack_that_is_not_as_it_was_written_is_shared_with_no_later_save(
    make: Make, tmp_path: Path, recorder: Recorder, damage: Callable[[Path], None]
) -> None:
    saved(tmp_path / "run", 1, 2)
    damage(pack_of(tmp_path / "run", 2))
    ckpt = make(tmp_path / "run", model=Toy(), keep=RetentionPolicy(last=2))
    assert ckpt.resume().step == 1
    for step in (3, 4, 5):
        ckpt.save(step).wait()
    ckpt.close()
    assert [event.step for event in recorder.of(Damaged)] == [2]
    for step in (4, 5):
        assert load(tmp_path / "run", step).info.step == step


@damaged
def test_a_damaged_checkpoint_that_was_named_is_an_error(
    make: Make, root: Path, damage: Callable[[Path, int], None]
) -> None:
    damage(root, 3)
    before = tree(root)
    toy = Toy(-1)
    ckpt = make(root, model=toy)
    for which in ("latest", 3, "00000003", "3"):
        with pytest.raises(CheckpointCorruptError):
            ckpt.restore(which)
        with pytest.raises(CheckpointCorruptError):
            load(root, which)
    assert tree(root) == before
    with pytest.raises(CheckpointCorruptError):
        ckpt.resume(which=3)
    assert toy.value == -1
    assert ckpt.restore(2).step == 2


def test_resume_raises_when_every_checkpoint_is_damaged_and_changes_nothing(make: Make, root: Path) -> None:
    for step in (1, 2, 3):
        flip(pack_of(root, step))
    toy = Toy(-1)
    ckpt = make(root, model=toy)
    with pytest.raises(CheckpointCorruptError, match="all 3 checkpoints of this run are damaged"):
        ckpt.resume()
    assert toy.value == -1
    assert steps(ckpt) == [1, 2, 3]


def test_a_lost_record_is_reported_and_keeps_the_run_from_looking_empty(
    make: Make, root: Path, recorder: Recorder
) -> None:
    for slot in (2, 3, 4):
        flip(root / f"commits/{slot:010d}.json", 30)
    ckpt = make(root, model=Toy())
    with pytest.raises(CheckpointCorruptError, match="all 3"):
        ckpt.resume()
    assert [event.step for event in recorder.of(Damaged)] == [None] * 3
    assert len(list(root.glob("data/*/*.safetensors"))) == 3


def test_a_damaged_head_is_an_error_and_never_a_step_back(make: Make, root: Path) -> None:
    flip(max(root.glob("commits/*.json")), 30)
    ckpt = make(root, model=Toy())
    for call in (ckpt.resume, ckpt.checkpoints, ckpt.latest, lambda: ckpt.restore("latest")):
        with pytest.raises(HeadDamaged):
            call()


def test_what_a_damaged_head_advises_works_as_it_stands(make: Make, root: Path) -> None:
    flip(max(root.glob("commits/*.json")), 30)
    ckpt = make(root, model=(toy := Toy(-1)))
    with pytest.raises(HeadDamaged) as caught:
        ckpt.resume()
    (call,) = re.findall(r"asyncckpt\.load\(.*?\)", str(caught.value))
    assert eval(call, {"asyncckpt": asyncckpt}).info.step == 3  # noqa: S307
    for which in re.findall(r"(?<=[ @])\d{8}", str(caught.value)):
        assert ckpt.restore(which).step == load(root, which).info.step == toy.value == int(which)
    assert ckpt.restore(2).step == load(root, 2).info.step == toy.value == 2
    for which in ("latest", "best", 7, "00000007"):
        with pytest.raises(HeadDamaged):
            ckpt.restore(which)
        with pytest.raises(HeadDamaged):
            load(root, which)
    for call in (lambda: ckpt.resume(which=2), ckpt.checkpoints):
        with pytest.raises(HeadDamaged):
            call()
    with pytest.raises(SaveFailed, match="newest commit record is damaged"):
        ckpt.save(4).wait()


@damaged
def test_what_is_read_without_a_head_is_checked_as_always(
    make: Make, root: Path, damage: Callable[[Path, int], None]
) -> None:
    damage(root, 3)
    flip(max(root.glob("commits/*.json")), 30)
    ckpt = make(root, model=(toy := Toy(-1)))
    for which in (3, "00000003"):
        with pytest.raises(CheckpointCorruptError):
            ckpt.restore(which)
        with pytest.raises(CheckpointCorruptError):
            load(root, which)
    assert toy.value == -1
    assert ckpt.restore(2).step == 2


# -- nothing there, and things that only look like it ------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "absent"])
def test_P11_an_empty_root_resumes_as_none(make: Make, tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "run").mkdir()
    ckpt = make(tmp_path / "run", model=Toy())
    assert ckpt.resume() is None
    assert (ckpt.latest(), ckpt.best(), ckpt.checkpoints()) == (None, None, [])
    assert ckpt.save(1).wait().step == 1


def test_a_root_that_is_a_file_is_an_error(make: Make, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a run")
    ckpt = make(tmp_path / "run", model=Toy())
    with pytest.raises(StorageError):
        ckpt.resume()
    with pytest.raises(SaveFailed):
        ckpt.save(1).wait()
    assert (tmp_path / "run").read_text() == "not a run"


@pytest.mark.parametrize("request_", ["get", "list"])
def test_a_root_that_cannot_be_read_is_an_error(make: Make, store: GatedStorage, request_: str) -> None:
    make(model=Toy()).save(1).wait()
    store.fail(request_, "*", lambda: StorageDenied(13, "Permission denied"))
    ckpt = make(model=Toy())
    for call in (ckpt.resume, ckpt.latest, ckpt.checkpoints, lambda: ckpt.restore("latest")):
        with pytest.raises(StorageDenied):
            call()


def test_commits_without_their_run_file_are_an_error(make: Make, root: Path) -> None:
    (root / "run.json").unlink()
    before = tree(root)
    ckpt = make(root, model=Toy())
    for call in (ckpt.resume, ckpt.latest, ckpt.checkpoints, lambda: ckpt.restore("latest"), lambda: load(root)):
        with pytest.raises(RunRefused, match=r"holds commits but no run\.json"):
            call()
    with pytest.raises(SaveFailed, match=r"run\.json"):
        ckpt.save(4).wait()
    assert tree(root) == before


@pytest.mark.parametrize("content", [b'{"lr": 0.1}', b"{", b"hello", b'{"format": 99}', b"x" * 100_000])
def test_a_file_of_the_user_that_is_named_run_json_stays(make: Make, tmp_path: Path, content: bytes) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "run.json").write_bytes(content)
    file = tree(root)[str(root / "run.json")]
    error = UnsupportedFormat if b"format" in content else RunRefused
    ckpt = make(root, model=Toy())
    # What a crash might have torn only a writer can tell from that, since it tries how files are created here.
    reading = [] if content == b"{" else [ckpt.checkpoints, ckpt.latest, lambda: load(root)]
    for call in (ckpt.resume, *reading):
        with pytest.raises(error, match=rf"{root}/run\.json"):
            call()
    with pytest.raises(SaveFailed, match=r"run\.json"):
        ckpt.save(1).wait()
    assert list(root.rglob("*")) == [root / "run.json"]
    assert tree(root)[str(root / "run.json")] == file


@pytest.mark.parametrize("lost", [("commits",), ("commits", "run.json")], ids=" ".join)
@pytest.mark.parametrize("overwrite", [False, True])
def test_data_whose_commits_are_lost_is_an_error_and_stays(
    make: Make, root: Path, lost: tuple[str, ...], overwrite: bool
) -> None:
    shutil.rmtree(root / "commits")
    for name in lost[1:]:
        (root / name).unlink()
    before = set(root.rglob("*"))
    ckpt = make(root, model=Toy(), overwrite=overwrite)
    for call in (ckpt.resume, ckpt.latest, ckpt.checkpoints, lambda: ckpt.restore(2), lambda: load(root)):
        with pytest.raises(RunRefused, match=rf"{root}/data/ holds checkpoints, but commits/ no record of them"):
            call()
    with pytest.raises(SaveFailed, match="no record of them"):
        ckpt.save(10).wait()
    ckpt.close()
    assert set(root.rglob("*")) == before


@pytest.mark.executors("thread")
def test_a_step_is_an_integer_of_any_type(make: Make, root: Path) -> None:
    ckpt = make(root, model=(toy := Toy()))
    for step in (np.int64(2), np.uint8(1), torch.tensor(3)):
        assert ckpt.restore(step).step == load(root, step).info.step == toy.value == int(step)
    assert ckpt.resume(which=np.int64(2)).step == 2
    assert make(root, model=toy).resume().step == 2


# Old ones take their booleans for integers, and warn of it themselves.
TRUE = pytest.param(np.bool_(True), marks=pytest.mark.skipif(hasattr(np.bool_, "__index__"), reason="numpy counts it"))


@pytest.mark.parametrize("which", [None, 1.5, True, TRUE, np.float32(1), b"latest", ["latest"]], ids=repr)
@pytest.mark.executors("thread")
def test_what_can_name_no_checkpoint_is_a_type_error_that_says_what_can(make: Make, root: Path, which: Any) -> None:
    before = tree(root)
    ckpt = make(root, model=Toy())
    for call in (ckpt.restore, lambda which: ckpt.resume(which=which), lambda which: load(root, which)):
        with pytest.raises(
            TypeError, match=r'names no checkpoint: use "latest", "best", a step .an integer., an id or'
        ):
            call(which)
    assert tree(root) == before


@pytest.mark.parametrize("which", [7, "00000007", "7", "best", "newest"])
@pytest.mark.executors("thread")
def test_what_is_not_there_says_what_is(make: Make, root: Path, which: int | str) -> None:
    ckpt = make(root, model=Toy())
    with pytest.raises(CheckpointNotFoundError, match=f"no checkpoint {which!r}: steps 1, 2, 3 are there") as error:
        ckpt.restore(which)
    assert isinstance(error.value, FileNotFoundError)
    with pytest.raises(CheckpointNotFoundError):
        ckpt.resume(which=which)


# -- going back --------------------------------------------------------------------------------------------


def test_resume_of_a_named_step_holds_across_a_crash_before_the_next_save(make: Make, root: Path) -> None:
    toy = Toy()
    assert make(root, model=toy).resume(which=1).step == 1
    again = make(root, model=toy)  # closes the first, as a new process would find it
    assert again.resume().step == 1
    assert toy.value == 1
    assert (again.latest().step, load(root).info.step) == (1, 1)
    assert steps(again) == [1, 2, 3]


def test_an_abandoned_branch_is_no_candidate_even_when_what_came_after_is_damaged(make: Make, root: Path) -> None:
    toy = Toy()
    ckpt = make(root, model=toy)
    ckpt.resume(which=1)
    toy.value = 10
    ckpt.save(10).wait()
    ckpt.close()
    flip(pack_of(root, 10))
    assert make(root, model=Toy()).resume().step == 1


def test_a_step_of_the_abandoned_branch_is_replaced_when_it_is_saved_again(make: Make, root: Path) -> None:
    toy = Toy()
    ckpt = make(root, model=toy)
    ckpt.resume(which=1)
    toy.value = 22
    ckpt.save(2).wait()
    assert steps(ckpt) == [1, 3, 2]
    assert ckpt.latest().step == 2
    toy.value = 0
    ckpt.restore(2)
    assert toy.value == 22


def test_saves_under_way_are_finished_before_a_training_goes_back(make: Make, store: GatedStorage) -> None:
    toy = Toy()
    ckpt = make(model=toy, generations=8)
    ckpt.save(1).wait()
    with store.hold("put", "data/*") as gate:
        for step in range(2, 10):
            ckpt.save(step)
        gate.wait_reached()
        once_it_waits("resume", gate.open)
        assert ckpt.resume(which=1).step == 1
    ckpt.wait()
    assert steps(ckpt) == list(range(1, 10))
    assert ckpt.latest().step == 1
    assert make(model=toy).resume().step == 1


def test_best_is_by_the_monitor_and_neither_nan_nor_a_tie_wins(make: Make) -> None:
    values = {1: float("nan"), 2: 0.5, 3: 0.25, 4: 0.25, 5: 0.75}
    toy = Toy()
    ckpt = make(model=toy, monitor=("loss", "min"))
    for step, loss in values.items():
        toy.value = step
        ckpt.save(step, metrics={"loss": loss}).wait()
    assert ckpt.best().step == 3
    assert [info.step for info in ckpt.checkpoints() if info.is_best] == [3]
    assert ckpt.restore("best").step == 3
    assert toy.value == 3
    assert ckpt.resume(which="best").step == 3
    assert ckpt.latest().step == 3


def test_best_is_judged_by_the_monitor_of_whoever_asks(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), monitor=("loss", "min"))
    ckpt.save(1, metrics={"loss": 0.1, "accuracy": 0.5}).wait()
    ckpt.save(2, metrics={"loss": 0.2, "accuracy": 0.9}).wait()
    ckpt.close()
    assert make(model=Toy()).best().step == 1
    other = make(model=Toy(), monitor=("accuracy", "max"))
    assert other.best().step == 2
    assert [info.step for info in other.checkpoints() if info.is_best] == [2]
    assert other.restore("best").step == 2
    assert other.resume(which="best").step == 2


def test_a_checkpoint_is_restored_by_step_or_by_id(make: Make, root: Path) -> None:
    toy = Toy()
    ckpt = make(root, model=toy)
    for which, step in ((1, 1), ("00000002", 2), ("2", 2), ("latest", 3)):
        assert ckpt.restore(which).step == step
        assert toy.value == step
        assert load(root, which).info.step == step


# -- reading never writes ----------------------------------------------------------------------------------


def test_reading_never_writes(root: Path) -> None:
    before = tree(root)
    with AsyncCheckpointer(root, model=Toy(), keep=RetentionPolicy(last=1), overwrite=True) as ckpt:
        assert ckpt.latest().step == 3
        assert ckpt.best() is None
        assert len(ckpt.checkpoints()) == 3
        assert ckpt.restore(2).step == 2
        assert load(root).info.step == 3
        ckpt.wait()
    assert tree(root) == before


def test_reading_an_absent_root_does_not_make_it(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path / "run", model=Toy()) as ckpt:
        assert ckpt.latest() is None
        with pytest.raises(CheckpointNotFoundError):
            ckpt.restore("latest")
        with pytest.raises(CheckpointNotFoundError):
            load(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_reading_disturbs_no_writer(make: Make, root: Path) -> None:
    writer = make(root, model=Toy())
    writer.resume()
    writer.save(4).wait()
    reader = make(Elsewhere(LocalStorage(root)), model=Toy())
    assert reader.restore("latest").step == 4
    assert steps(reader) == [1, 2, 3, 4]
    reader.close()
    assert writer.save(5).wait().step == 5


def test_retention_spares_what_this_process_is_reading(make: Make, store: GatedStorage) -> None:
    toy = Toy(1)
    ckpt = make(model=toy, keep=RetentionPolicy(last=1))
    ckpt.save(1).wait()
    with store.hold("get", "data/*/manifest.json") as gate, ThreadPoolExecutor(1) as thread:
        restoring = thread.submit(ckpt.restore, 1)
        gate.wait_reached()
        toy.value = 2
        for step in (2, 3, 4):
            ckpt.save(step).wait()
        assert steps(ckpt) == [1, 4]
        gate.open()
        assert restoring.result().step == 1
    assert toy.value == 1
    ckpt.save(5).wait()
    assert steps(ckpt) == [5]


def test_a_part_that_nobody_takes_any_more_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, extra = torch.nn.Linear(2, 2), {"average": torch.nn.Linear(2, 2), "seen": torch.nn.Linear(1, 1)}
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    with AsyncCheckpointer(tmp_path, model=[first, torch.nn.Linear(1, 1)], optimizer=optimizer, extra=extra) as before:
        before.save(1).wait()
    with AsyncCheckpointer(tmp_path, model=[first], extra={"seen": extra["seen"]}) as now:
        assert now.restore("latest").step == 1  # a part of it is all that a restore may want
        assert "was not given" not in caplog.text
        assert now.resume() is not None
    assert "was not given, and will not be in its next one: model.1, optimizer, extra.average\n" in caplog.text


@pytest.mark.parametrize("extra", [None, {}])
def test_nothing_is_said_where_everything_is_taken(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, extra: dict[str, Any] | None
) -> None:
    saved(tmp_path / "run", 1, extra=extra)
    assert make(tmp_path / "run", model=Toy(), extra=extra).resume() is not None
    assert "was not given" not in caplog.text
