"""Starting over by accident is impossible; and what a start cleans up is only what nobody can need (P7)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from asyncckpt import RetentionPolicy, SavePolicy, load
from asyncckpt.errors import (
    CheckpointDirectoryExistsError,
    CheckpointerClosed,
    CheckpointNotFoundError,
    IncompatibleState,
    SaveFailed,
    StorageDenied,
)
from asyncckpt.events import Leftover, Swept
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Elsewhere, Recorder, Toy, saved, steps, tree

pytestmark = pytest.mark.executors


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 1 and 2."""
    saved(tmp_path / "run", 1, 2)
    return tmp_path / "run"


def test_the_first_save_beside_an_earlier_training_is_refused_before_anything_is_written(
    make: Make, root: Path
) -> None:
    before = tree(root)
    ckpt = make(root, model=Toy(), save=SavePolicy(every_steps=1), keep=RetentionPolicy(last=1))
    with pytest.raises(CheckpointDirectoryExistsError) as raised:
        ckpt.save(3)
    for words in (str(root), "2 checkpoints", "(1)", "another root", "(2)", "resume()", "(3)", "overwrite=True"):
        assert words in str(raised.value)
    assert isinstance(raised.value, FileExistsError)
    with pytest.raises(CheckpointDirectoryExistsError):
        ckpt.step(4)
    with pytest.raises(CheckpointDirectoryExistsError):
        ckpt.save(5)
    ckpt.close()
    assert tree(root) == before


def test_reading_the_earlier_training_does_not_unlock_saving(make: Make, root: Path) -> None:
    ckpt = make(root, model=Toy())
    assert ckpt.restore("latest").step == 2
    with pytest.raises(CheckpointDirectoryExistsError):
        ckpt.save(3)


def test_another_training_that_came_first_after_the_look_is_not_written_over(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy())
    with store.hold("put", "run.json") as gate:
        late = ckpt.save(1)
        gate.wait_reached()
        make(Elsewhere(store.inner), model=Toy()).save(7).wait()
    with pytest.raises(SaveFailed, match="earlier training") as raised:
        late.wait()
    assert isinstance(raised.value.__cause__, CheckpointDirectoryExistsError)
    assert steps(ckpt) == [7]


def test_resume_is_a_way_out(make: Make, root: Path) -> None:
    ckpt = make(root, model=Toy())
    assert ckpt.resume().step == 2
    ckpt.save(3).wait()
    assert steps(ckpt) == [1, 2, 3]


def test_another_root_is_a_way_out(make: Make, root: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "other", model=Toy()).save(1).wait().step == 1
    assert steps(make(root, model=Toy())) == [1, 2]


def test_overwrite_drops_the_old_ones_only_when_the_first_new_one_is_durable(make: Make, root: Path) -> None:
    store = GatedStorage(LocalStorage(root))
    ckpt = make(store, model=Toy(), overwrite=True)
    store.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"), times=1)
    with pytest.raises(SaveFailed):
        ckpt.save(1).wait()
    assert steps(ckpt) == [1, 2]
    with store.hold("put", "commits/*") as gate:
        handle = ckpt.save(10)
        gate.wait_reached()
        assert steps(ckpt) == [1, 2]
    handle.wait()
    assert steps(ckpt) == [10]
    ckpt.save(11).wait()
    assert steps(ckpt) == [10, 11]
    ckpt.close()
    assert sorted(path.name.split("-")[2] for path in root.glob("data/*")) == ["10", "11"]


def test_overwrite_does_nothing_to_a_run_that_was_resumed(make: Make, root: Path) -> None:
    ckpt = make(root, model=Toy(), overwrite=True)
    ckpt.resume()
    ckpt.save(3).wait()
    assert steps(ckpt) == [1, 2, 3]


def test_overwrite_spares_what_this_process_is_reading(make: Make, root: Path) -> None:
    store = GatedStorage(LocalStorage(root))
    ckpt = make(store, model=Toy(), overwrite=True)
    with store.hold("get", "data/*/manifest.json") as gate, ThreadPoolExecutor(1) as thread:
        restoring = thread.submit(ckpt.restore, 2)
        gate.wait_reached()
        for step in (10, 11, 12):
            ckpt.save(step).wait()
        assert steps(ckpt) == [2, 10, 11, 12]
        gate.open()
        assert restoring.result().step == 2
    ckpt.save(13).wait()
    assert steps(ckpt) == [10, 11, 12, 13]


@pytest.mark.parametrize("name", ["link", "run", "up/../run"])
def test_a_root_is_the_same_by_whatever_name(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "run").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "up").symlink_to("there")
    monkeypatch.chdir(tmp_path)
    first = make(tmp_path / "run", model=Toy())
    first.save(1).wait()
    second = make(name, model=Toy())
    assert "a second checkpointer of" in caplog.text
    with pytest.raises(CheckpointerClosed):
        first.save(2)
    assert second.resume().step == 1
    second.close()
    make(tmp_path / "link", model=Toy())
    assert caplog.text.count("a second checkpointer of") == 1


def test_a_second_checkpointer_of_a_root_closes_the_first_with_a_warning(
    make: Make, store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    first = make(model=Toy())
    handle = first.save(1)
    second = make(model=Toy())
    assert "a second checkpointer of" in caplog.text
    assert handle.status == "durable"
    with pytest.raises(CheckpointerClosed):
        first.save(2)
    assert second.resume().step == 1
    assert second.save(2).wait().step == 2


def test_checkpointers_of_different_roots_live_side_by_side(make: Make, tmp_path: Path) -> None:
    one = make(MemoryStorage(f"{tmp_path}-1"), model=Toy())
    two = make(MemoryStorage(f"{tmp_path}-2"), model=Toy())
    assert [one.save(1).wait().step, two.save(2).wait().step] == [1, 2]


# -- what a start cleans up --------------------------------------------------------------------------------


def temporary(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".0123456789abcdef.tmp-{name}"
    path.write_bytes(b"half")
    return path


PACK = "rank-00000-of-00001.p0.safetensors"


def test_P7_leftovers_of_dead_writers_are_gone_after_a_start(make: Make, root: Path, recorder: Recorder) -> None:
    dead = root / "data/00000009-step-9-i1-aaaaaaaa"
    leftovers = [
        temporary(dead, PACK),
        temporary(dead, "manifest.json"),
        temporary(root / "commits", "0000000002.json"),
        dead / PACK,
        dead / "manifest.json",
    ]
    for path in leftovers[3:]:
        path.write_bytes(b"whole, but no record names it")
    ckpt = make(root, model=Toy())
    ckpt.resume()
    ckpt.close()
    assert [path for path in leftovers if path.exists()] == []
    assert recorder.of(Swept)[0].objects >= len(leftovers)
    assert steps(make(root, model=Toy())) == [1, 2]


def test_P7_what_may_belong_to_a_live_writer_or_to_nobody_we_know_stays(
    make: Make, root: Path, recorder: Recorder
) -> None:
    newer = root / "data/00000009-step-9-i7-aaaaaaaa"
    strange = root / "data/my-notes/readme.txt"
    strange.parent.mkdir()
    strange.write_text("mine")
    (root / "notes.txt").write_text("mine too")
    kept = [
        temporary(newer, PACK),
        temporary(root / "commits", "0000000099.json"),
        temporary(strange.parent, "readme.txt"),
        newer / PACK,
        strange,
        root / "notes.txt",
    ]
    kept[3].write_bytes(b"on its way to a record")
    ckpt = make(root, model=Toy())
    ckpt.resume()
    ckpt.save(3).wait()
    ckpt.close()
    assert [path for path in kept if not path.exists()] == []
    assert "data/my-notes/readme.txt" in recorder.of(Leftover)[0].what


def test_P7_reading_and_a_refused_save_clean_up_nothing(make: Make, root: Path) -> None:
    leftover = temporary(root / "data/00000009-step-9-i1-aaaaaaaa", PACK)
    ckpt = make(root, model=Toy())
    ckpt.restore("latest")
    with pytest.raises(CheckpointDirectoryExistsError):
        ckpt.save(3)
    ckpt.close()
    assert leftover.exists()


@pytest.mark.parametrize("pattern", ["data/*/manifest.json", "commits/*"])
def test_P7_a_checkpoint_that_is_being_written_is_seen_by_nobody(make: Make, root: Path, pattern: str) -> None:
    store = GatedStorage(LocalStorage(root))
    ckpt = make(store, model=Toy())
    ckpt.resume()
    with store.hold("put", pattern) as gate:
        handle = ckpt.save(3)
        gate.wait_reached()
        assert steps(ckpt) == [1, 2]
        assert load(root).info.step == 2
        with pytest.raises(CheckpointNotFoundError):
            ckpt.restore(3)
    handle.wait()
    assert steps(ckpt) == [1, 2, 3]


def test_a_resume_that_failed_does_not_open_the_way_to_prune_the_earlier_training(make: Make, root: Path) -> None:
    ckpt = make(root, model=torch.nn.Linear(3, 3), keep=RetentionPolicy(last=1))
    with pytest.raises(IncompatibleState):
        ckpt.resume()
    with pytest.raises(CheckpointDirectoryExistsError, match="has not resumed"):
        ckpt.save(10)
    with pytest.raises(CheckpointDirectoryExistsError, match="has not resumed"):
        ckpt.prune()
    assert steps(ckpt) == [1, 2]
    ckpt.close()
    assert make(root, model=Toy()).resume().step == 2
