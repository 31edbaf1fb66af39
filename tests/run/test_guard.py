"""A run's root is looked at before anything is made there (features B1, B2, B13, B14, D18, D38, A10)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from asyncckpt import AsyncCheckpointer, Run, load
from asyncckpt.distributed import coordinator
from asyncckpt.distributed.coordinator import Place as PlaceOfRank
from asyncckpt.errors import (
    CheckpointCorruptError,
    CheckpointDirectoryExistsError,
    CheckpointNotFoundError,
    RunRefused,
    StorageDenied,
    StorageError,
)
from asyncckpt.run import guard, log_file
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.files import Files
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.testing.s3server import S3Server
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker import pulse
from tests.ranks.looking import OwnTime, error_of, is_leader, wait_for_beats

from .conftest import Place


def saved(place: Place, mode: str, *steps: int, **config: Any) -> None:
    """A start of a training in `place` that saves at `steps`."""
    with place.open(mode=mode, **config) as run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
        ckpt.resume()
        for step in steps:
            ckpt.save(step)


def tree(place: Place) -> dict[str, bytes | None]:
    return {key: place.read(key) for key in place.names()}


def test_b1_a_second_start_is_refused_before_anything_is_changed(somewhere: Place) -> None:
    saved(somewhere, "new", 1)
    before = tree(somewhere)
    with pytest.raises(CheckpointDirectoryExistsError):
        somewhere.open(config={"lr": 2})
    assert tree(somewhere) == before


def test_b1_a_missing_root_is_made(somewhere: Place) -> None:
    run = somewhere.open()
    assert run.mode == "new"
    assert "identity.json" in somewhere.names()


def test_b1_checkpoints_of_no_run_are_protected_too(somewhere: Place) -> None:
    with AsyncCheckpointer(somewhere.root, storage_options=somewhere.options, model=torch.nn.Linear(2, 2)) as ckpt:
        ckpt.save(1)
    with pytest.raises(CheckpointDirectoryExistsError, match="checkpoints"):
        somewhere.open()
    run = somewhere.open(mode="resume")
    assert (run.mode, run.id.count("_")) == ("resume", 3)


def test_b1_a_root_that_holds_logs_alone_is_one_of_a_run(somewhere: Place) -> None:
    somewhere.write("logs/training_20240101_000000.log", b"it began\n")
    with pytest.raises(CheckpointDirectoryExistsError, match="logs/training_20240101_000000"):
        somewhere.open()


def test_b1_an_empty_folder_and_files_of_others_are_no_run(folder: Place) -> None:
    root = Path(folder.root)
    (root / "logs").mkdir(parents=True)
    others = ("slurm-123.out", "README.md", "logs/slurm.txt", "config.mine", "results.csv", "metrics.db")
    for name in others:
        (root / name).write_text("mine")
    assert folder.open().mode == "new"
    assert [(root / name).read_text() for name in others] == ["mine"] * len(others)


def test_b1_commits_that_were_half_copied_are_not_taken_for_an_empty_root(folder: Place) -> None:
    saved(folder, "new", 1)
    for key in folder.names():
        if not key.startswith(("commits/", "data/")):
            Path(folder.root, key).unlink()
    with pytest.raises(RunRefused):
        folder.open()


def test_b1_an_identity_alone_is_a_run(folder: Place) -> None:
    """As a start leaves it that is killed right after it has made the run its own."""
    with folder.open() as begun:
        pass
    for key in folder.names():
        if key != "identity.json":
            Path(folder.root, key).unlink()
    with pytest.raises(CheckpointDirectoryExistsError, match=begun.id):
        folder.open()
    with folder.open(mode="auto") as run:
        assert (run.id, run.mode) == (begun.id, "resume")


def test_b1_data_alone_is_of_a_run(somewhere: Place) -> None:
    somewhere.write("data/00000042-step-1000-i3-5f2c9a01/rank-00000-of-00001.p0.safetensors", b"precious")
    with pytest.raises(CheckpointDirectoryExistsError, match="holds checkpoints"):
        somewhere.open()


def test_b1_a_root_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for mode in ("new", "auto", "resume", "overwrite"):
        with pytest.raises(StorageError):
            Run.open(tmp_path / "file", mode=mode)


def test_b2_the_refusal_names_the_root_and_three_ways_out(folder: Place) -> None:
    run = folder.open()
    with pytest.raises(CheckpointDirectoryExistsError) as raised:
        folder.open()
    text = str(raised.value)
    for words in (folder.root, run.id, "(1)", "another root", "(2)", 'mode="resume"', "(3)", "delete"):
        assert words in text
    assert "(4)" not in text
    assert isinstance(raised.value, FileExistsError)


def test_a_damaged_identity_is_neither_ignored_nor_overwritten(folder: Place) -> None:
    folder.open().close()
    folder.write("identity.json", b'{"id": "x"')
    for mode in ("new", "resume", "auto", "overwrite"):
        with pytest.raises(CheckpointCorruptError, match=r"identity\.json"):
            folder.open(mode=mode)
    assert folder.read("identity.json") == b'{"id": "x"'


def test_modes_say_what_may_be_there(somewhere: Place) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no run to go on with"):
        somewhere.open(mode="resume")
    assert somewhere.names() == []
    first = somewhere.open(mode="auto")
    second = somewhere.open(mode="auto")
    assert (first.mode, second.mode) == ("new", "resume")
    assert first.id == second.id
    with pytest.raises(ValueError, match="use one of new, resume, auto, overwrite"):
        somewhere.open(mode="again")


def test_overwrite_begins_anew_and_leaves_what_is_not_of_the_run(somewhere: Place) -> None:
    saved(somewhere, "new", 1, 2, config={"lr": 1})
    somewhere.write("notes.txt", b"mine")
    somewhere.write("configs/mine.json", b"{}")
    somewhere.write("history.json", b"{}")
    with somewhere.open(mode="overwrite", config={"lr": 2}) as run:
        assert somewhere.read("results.json") is None
        assert somewhere.read("history.json") is None
        assert json.loads(somewhere.read("config.json") or b"")["config"] == {"lr": 2}
        assert load(somewhere.root, storage_options=somewhere.options).info.step == 2  # until there is another
        with AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
            ckpt.save(1).wait()
            assert [info.step for info in ckpt.checkpoints()] == [1]
    assert "config-2.json" not in somewhere.names()
    assert somewhere.read("notes.txt") == b"mine"
    assert somewhere.read("configs/mine.json") == b"{}"


def test_the_checkpointer_still_refuses_to_start_over_by_accident(folder: Place) -> None:
    saved(folder, "new", 1)
    run = folder.open(mode="auto")
    ckpt = AsyncCheckpointer(run, model=torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointDirectoryExistsError):
        ckpt.save(2)
    ckpt.close()


def test_what_a_run_says_is_not_said_twice(folder: Place) -> None:
    run = folder.open()
    with pytest.raises(ValueError, match="belong to the run"):
        AsyncCheckpointer(run, model=torch.nn.Linear(2, 2), overwrite=True)
    with pytest.raises(ValueError, match="belong to the run"):
        AsyncCheckpointer(run, model=torch.nn.Linear(2, 2), storage_options={})


def test_d18_a_root_that_may_not_be_written_is_refused_at_once_in_words(tmp_path: Path) -> None:
    class ReadOnly(Files):
        def create(self, *arguments: Any, **named: Any) -> int:
            raise PermissionError(13, "Permission denied", "x")

        def unnamed(self, *arguments: Any, **named: Any) -> int:
            raise PermissionError(13, "Permission denied", "x")

        def mkdir(self, *arguments: Any, **named: Any) -> None:
            raise PermissionError(13, "Permission denied", "x")

    threads = set(threading.enumerate())
    with pytest.raises(StorageDenied, match=r"permission denied; .* another root"):
        Run.open(LocalStorage(tmp_path / "run", files=ReadOnly()))
    assert not (tmp_path / "run").exists()
    assert not [thread for thread in {*threading.enumerate()} - threads if thread.name.startswith("asyncckpt-run")]


def test_a10_of_two_starts_in_one_empty_root_one_goes_on(somewhere: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    both_have_looked, look = threading.Barrier(2), guard.look

    async def looked(storage: Any) -> guard.Held:
        held = await look(storage)
        if threading.current_thread() not in seen:
            seen.add(threading.current_thread())
            both_have_looked.wait(60)
        return held

    seen: set[threading.Thread] = set()
    monkeypatch.setattr(guard, "look", looked)

    def start() -> str:
        try:
            return somewhere.open(name="same").id
        except CheckpointDirectoryExistsError:
            return "refused"

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: start(), range(2)))
    (winner,) = (run for run in found if run != "refused")
    assert found.count("refused") == 1
    assert json.loads(somewhere.read("identity.json") or b"")["id"] == winner


def test_d38_runs_beside_each_other_share_no_file(tmp_path: Path) -> None:
    places = [Place(str(tmp_path / "runs" / name)) for name in ("one", "two")]
    runs = [place.open(name="same", config={"place": place.root}, logs=True) for place in places]
    assert runs[0].id != runs[1].id
    ckpts = [AsyncCheckpointer(run, model=torch.nn.Linear(2, 2), executor="thread") for run in runs]
    for handle in [ckpt.save(step) for step in (1, 2) for ckpt in ckpts]:
        handle.wait()
    for ckpt, run in zip(ckpts, runs, strict=True):
        ckpt.close()
        run.close()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one", "two"}
    for place, run in zip(places, runs, strict=True):
        said = json.loads(place.read("config.json") or b"")
        assert (said["run_id"], said["config"]) == (run.id, {"place": place.root})
        (log,) = (key for key in place.names() if key.startswith("logs/"))
        assert run.id.encode() in (place.read(log) or b"")
        assert load(place.root).info.step == 2


def test_b14_what_a_start_may_meet_stops_no_training_or_is_said_before_it(
    folder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No directory, no configuration, no W&B, no permission; and a directory that is there."""

    def denied(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(log_file, "_created", denied)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert not Path(folder.root).exists()
    with folder.open(config=tmp_path / "absent.yml", logs=True) as run:
        assert run.log_path is None
        assert not run.save_wandb_info()
        with AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
            assert ckpt.save(1).wait().step == 1
    assert not {"wandb_info.json", "config.yml"} & {*folder.names()}
    for words in ("absent.yml cannot be read", "there is no log of this training: [Errno 13] Permission denied"):
        assert sum(words in record.getMessage() for record in caplog.records) == 1, words
    with pytest.raises(CheckpointDirectoryExistsError):
        folder.open()


def test_a_failed_start_leaves_no_thread_and_no_file_behind(folder: Place) -> None:
    folder.open()
    threads, names = set(threading.enumerate()), sorted(folder.names())
    with pytest.raises(CheckpointDirectoryExistsError):
        folder.open()
    assert set(threading.enumerate()) <= threads
    assert sorted(folder.names()) == names


def test_d18_a_start_that_fails_half_way_lets_the_console_and_all_threads_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalStorage.put

    async def full(self: LocalStorage, key: str, *arguments: Any, **named: Any) -> Any:
        if key == "config.json":
            raise StorageDenied(28, "no space left")
        return await put(self, key, *arguments, **named)

    monkeypatch.setattr(LocalStorage, "put", full)
    threads, handlers = set(threading.enumerate()), list(logging.getLogger().handlers)
    with pytest.raises(StorageDenied):
        Run.open(tmp_path / "run")
    assert set(threading.enumerate()) <= threads
    assert logging.getLogger().handlers == handlers
    assert "write" not in vars(sys.stdout)
    monkeypatch.undo()
    assert Run.open(tmp_path / "run", mode="auto", logs=False).mode == "resume"


def _opens(root: str) -> tuple[str, str, bool]:
    run = Run.open(root, config={"rank": int(os.environ.get("RANK", "0"))})
    with run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
        ckpt.save(1).wait()
        run.save_results({"loss": 1.0})
    return run.id, run.mode, run.log_path is not None


@pytest.mark.ranks
def test_b1_all_ranks_open_the_run_that_rank_0_opened(tmp_path: Path) -> None:
    (first, second) = run_ranks(_opens, 2, f"{tmp_path}/runs/{{id}}")
    assert first[:2] == second[:2]
    assert (first[2], second[2]) == (True, False)
    (root,) = (tmp_path / "runs").iterdir()
    identity = json.loads((root / "identity.json").read_text())
    assert identity["id"] == first[0] == root.name
    assert len(identity["starts"]) == 1


def _opens_at(url: str, options: dict[str, Any], mode: Any) -> tuple[str, str, int, str]:
    """All at once, so that what rank 0 makes is there before the others look."""
    try:
        run = Run.open(url, mode=mode, config={"rank": torch.distributed.get_rank()}, storage_options=options)
    except CheckpointDirectoryExistsError as error:
        return "", "refused", 0, str(error)
    with run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
        state = ckpt.resume()
        ckpt.save(state.step + 1 if state else 1).wait()
        run.save_results({"loss": 1.0})
        return run.id, run.mode, state.step if state else 0, ""


@pytest.mark.ranks
def test_b1_ranks_of_a_run_in_a_bucket_begin_it_together_and_are_refused_together(s3: S3Server) -> None:
    """With the original each rank looked for itself, and the second found what the first had made."""
    place = Place(f"s3://tests/ranks-{secrets.token_hex(8)}/run", s3.options())
    begun = run_ranks(_opens_at, 2, place.root, place.options, "new")
    assert [(mode, step) for _, mode, step, _ in begun] == [("new", 0)] * 2
    assert begun[0][0] == begun[1][0] != ""
    assert json.loads(place.read("config.json") or b"")["config"] == {"rank": 0}
    before = tree(place)
    refused = run_ranks(_opens_at, 2, place.root, place.options, "new")
    assert [mode for _, mode, _, _ in refused] == ["refused"] * 2
    assert refused[0][3] == refused[1][3]
    assert "(3)" in refused[0][3]
    assert tree(place) == before, "nothing was written by whoever was refused"
    again = run_ranks(_opens_at, 2, place.root, place.options, "resume")
    assert [(run_id, mode, step) for run_id, mode, step, _ in again] == [(begun[0][0], "resume", 1)] * 2
    assert len(json.loads(place.read("identity.json") or b"")["starts"]) == 2


class Slow:
    """A time of which each look takes a millionth of a second: whoever gives up at all does so at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(0.001)


def _refused(root: Path) -> tuple[str, str, list[str], list[str]]:
    """What a rank is told of a run that is not there, and of one that is; the threads that it has left then, and what
    it has said of the others."""
    mock.patch.object(coordinator, "time", Slow()).start()
    said = mock.patch.object(coordinator.logger, "warning").start()
    with pytest.raises(CheckpointNotFoundError) as absent:
        Run.open(root.parent / "absent", mode="resume")
    with pytest.raises(CheckpointDirectoryExistsError) as raised:
        Run.open(root)
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("asyncckpt")]
    for thread in ours:
        thread.join(PATIENCE)
    left = [thread.name for thread in ours if thread.is_alive()]
    return str(absent.value), str(raised.value), left, list(map(str, said.mock_calls))


@pytest.mark.ranks
def test_b1_all_ranks_are_refused_alike(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", logs=False).close()
    first, second = run_ranks(_refused, 2, tmp_path / "run")
    assert first == second
    absent, refused, threads, said = first
    assert "holds no run to go on with" in absent
    assert '(2) go on with it: mode="resume"' in refused
    assert threads == []
    assert said == [], "nobody leaves before the others have heard"
    assert not (tmp_path / "absent").exists()


def _opens_for_long(root: Path) -> tuple[str, str]:
    """Rank 0 looks at the root for more than two deadlines of those who wait for it, by its own heartbeats."""
    made, places, own = list[Any](), PlaceOfRank.ranks, OwnTime()
    mock.patch.object(pulse, "BEAT", 0.001).start()

    def noted(here: PlaceOfRank, arguments: Any) -> Any:
        made.append(places(here, arguments))
        if here.rank != 0:
            own.pass_with_beats(made[0])
        return made[0]

    look = guard.look

    async def looked(storage: Any) -> guard.Held:
        await asyncio.to_thread(wait_for_beats, made[0], 12)
        return await look(storage)

    mock.patch.object(PlaceOfRank, "ranks", noted).start()
    mock.patch.object(guard, "look", looked).start()
    with Run.open(root if is_leader() else LocalStorage(root), logs=False) as run:  # which is the same place
        return run.id, run.mode


@pytest.mark.ranks
def test_b1_ranks_wait_for_rank_0_as_long_as_it_is_at_work(tmp_path: Path) -> None:
    first, second = run_ranks(_opens_for_long, 2, tmp_path / "run")
    assert first == second
    assert first[1] == "new"


def _differing(root: Path) -> list[str]:
    """What a rank is told where rank 0 asks for something else, makes a checkpointer instead, or does neither."""
    other = root.parent / "other"
    said = [
        error_of(lambda: Run.open(root, mode="auto" if is_leader() else "new")),
        error_of(lambda: Run.open(root.parent / f"of rank {torch.distributed.get_rank()}")),
    ]
    if is_leader():
        with AsyncCheckpointer(other, model=torch.nn.Linear(2, 2), executor="thread"):
            torch.distributed.barrier()
    else:
        said.append(error_of(lambda: Run.open(other)))
        torch.distributed.barrier()
        coordinator.FAREWELL = 0.1  # rank 0 says nothing any more, nor good-bye
        OwnTime().fly()
        said.append(error_of(lambda: Run.open(other)))
    torch.distributed.barrier()
    return said


@pytest.mark.ranks
def test_ranks_that_ask_for_different_things_are_told(tmp_path: Path) -> None:
    first, (*differing, silent) = run_ranks(_differing, 2, tmp_path / "run")
    assert first == ["no error"] * 2
    roots = f"root: {tmp_path / 'of rank 0'} and {tmp_path / 'of rank 1'} (on rank 0 and rank 1)"
    for told, said in zip(differing, ("mode: auto and new (on", roots, "call: None and Run.open"), strict=True):
        assert told.startswith("RanksDiffer")
        assert said in told
    assert silent == "RankMissing: no run from rank 0 within 600 s: every rank has to call Run.open()"
