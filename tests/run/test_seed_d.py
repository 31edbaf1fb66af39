"""What seed D promises of checkpoints (features D4 to D17, D28, D31, D32, D34 to D36), shown through what users call.

Names on disk, "latest" and errors are those of this package: a checkpoint is known by its id and its step, the commit
log says which is the latest, and one that is asked for by name and damaged is an error (rulings X2, X4, X5, X15).
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from asyncckpt import AsyncCheckpointer, Budget, MetricsConfig, RetentionPolicy, Run, SavePolicy, load
from asyncckpt.errors import (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    RanksDiffer,
    RestoreError,
    SaveFailed,
    StorageDenied,
)
from asyncckpt.format.sealed import seal, unseal
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.testing.files import Call, WatchedFiles
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.testing.slow import GatedStorage
from tests.checkpointer.scraping import scrape

from .conftest import SOURCE, Place


class Training:
    """A model, its optimizer and its schedule; every random generator has a part in its losses."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3)
        self.losses: list[float] = []

    def step(self) -> float:
        loss = self.model(torch.randn(4, 8)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.losses.append(loss.item())
        return loss.item()

    def checkpointer(self, root: Any, **given: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(
            root, model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, **given
        )  # fmt: skip


def saved(root: Any, *steps: int, resume: bool = False, **given: Any) -> None:
    """Save a model whose every weight is the step, at `steps`."""
    model = nn.Linear(4, 4)
    with AsyncCheckpointer(root, model=model, **given) as ckpt:
        if resume:
            ckpt.resume()
        for step in steps:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.fill_(step)
            ckpt.save(step).wait()
        ckpt.wait()


def resumed(root: Any, **given: Any) -> int:
    """The step that a new start goes on from, whose weights it then has; 0 from nothing."""
    model = nn.Linear(4, 4)
    with AsyncCheckpointer(root, model=model, **given) as ckpt:
        state = ckpt.resume()
    if state is None:
        return 0
    assert all(bool((weight == state.step).all()) for weight in model.parameters())
    return state.step


def folder_of(root: Path, step: int) -> Path:
    (found,) = (root / "data").glob(f"*-step-{step}-*")
    return found


# -- when, what and under which name --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1])
def test_d4_intervals_and_counts_that_mean_nothing_are_refused_at_once(number: int) -> None:
    for name in ("every_steps", "every_seconds", "every_epochs"):
        with pytest.raises(ValueError, match=rf"{name}={number}"):
            SavePolicy(**{name: number})
    for name in ("last", "best", "every_steps", "every_epochs"):
        with pytest.raises(ValueError, match=rf"{name}={number}"):
            RetentionPolicy(**{name: number})


def test_d4_the_seeds_defaults_are_said_in_our_words(tmp_path: Path) -> None:
    save, keep = SavePolicy(every_steps=1000), RetentionPolicy(last=3)
    with AsyncCheckpointer(tmp_path, model=nn.Linear(2, 2), save=save, keep=keep) as ckpt:
        for step in range(500, 5001, 500):
            if (handle := ckpt.step(step)) is not None:
                handle.wait()
        ckpt.wait()
        assert [info.step for info in ckpt.checkpoints()] == [3000, 4000, 5000]


def test_d5_a_step_is_due_at_each_multiple_but_never_at_0(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path, model=nn.Linear(2, 2), save=SavePolicy(every_steps=100)) as ckpt:
        due = [step for step in (0, 50, 99, 100, 101, 200) if (h := ckpt.step(step)) is not None and h.wait()]
    assert due == [100, 200]


def test_d7_which_checkpoint_it_will_be_is_known_at_once_and_where_it_is_once_it_is_durable(tmp_path: Path) -> None:
    storage = GatedStorage(LocalStorage(tmp_path / "run"))
    with (
        storage.hold("put", "*manifest.json") as gate,
        Run.open(storage, compat_names=["checkpoint_step_{step}.pt"], logs=False) as run,
        AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt,
    ):
        handle = ckpt.save(25)
        known = handle.id
        gate.wait_reached()
        assert (handle.step, handle.done()) == (25, False)
        with pytest.raises(CheckpointNotFoundError):
            load(tmp_path / "run", known)
        gate.open()
        assert handle.wait().id == known
        assert load(tmp_path / "run", known).info.step == 25


def test_d7_the_seeds_file_name_is_a_link_to_it(tmp_path: Path) -> None:
    names = ["checkpoint_step_{step}.pt", "checkpoint_latest.pt"]
    with (
        Run.open(tmp_path, compat_names=names, logs=False) as run,
        AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt,
    ):
        ckpt.save(25).wait()
    for name in ("checkpoint_step_25.pt", "checkpoint_latest.pt"):
        assert json.loads((tmp_path / name / "manifest.json").read_text())["step"] == 25


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_d16_what_wraps_a_model_leaves_no_trace_in_its_names(tmp_path: Path, wrap: Callable[[nn.Module], Any]) -> None:
    model = _normed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.compile's own
        saved_as, others = wrap(model), [_normed(), wrap(_normed())]
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    with AsyncCheckpointer(tmp_path, model=saved_as) as ckpt:
        ckpt.save(1).wait()
    assert set(load(tmp_path).state["model"]) == set(expected)
    for other in others:
        with AsyncCheckpointer(tmp_path, model=other) as ckpt:
            assert ckpt.restore().step == 1
        bare = getattr(other, "module", getattr(other, "_orig_mod", other))
        assert all(torch.equal(value, expected[name]) for name, value in bare.state_dict().items())


class _OfItsOwn(nn.Module):
    """A model that says by itself what its state is, and knows no words for that."""

    number = 7

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        assert (arguments, named) == ((), {})
        return {"number": self.number}

    def load_state_dict(self, state_dict: Any, *arguments: Any, **named: Any) -> Any:
        assert (arguments, named) == ((), {})
        self.number = state_dict["number"]


def test_d16_a_model_that_is_wrapped_is_asked_itself(tmp_path: Path) -> None:
    model = _OfItsOwn()
    with AsyncCheckpointer(tmp_path, model=nn.DataParallel(model)) as ckpt:
        ckpt.save(1).wait()
        assert load(tmp_path).state["model"] == {"number": 7}
        model.number = 0
        ckpt.restore()
    assert model.number == 7


def _normed() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


# -- a kill in the middle ----------------------------------------------------------------------------------


SAVING = """
import sys, torch
from asyncckpt import AsyncCheckpointer, RetentionPolicy
model = torch.nn.Linear(256, 256)
ckpt = AsyncCheckpointer(sys.argv[1], model=model, keep=RetentionPolicy(last=3), executor="thread")
state = ckpt.resume()
step = state.step if state else 0
while True:
    step += 1
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(step)
    ckpt.save(step).wait()
    print(step, flush=True)
"""


@pytest.mark.kills
def test_d8_a_kill_while_it_writes_leaves_the_old_ones_whole_and_nothing_half(tmp_path: Path) -> None:
    root = tmp_path / "run"
    for kill in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", SAVING, root],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        ) as training:
            assert training.stdout is not None
            told = [int(training.stdout.readline()) for _ in range(4 + kill)]
            training.send_signal(signal.SIGKILL)
            told += [int(line) for line in training.stdout]
        loaded = load(root)
        assert loaded.info.step >= told[-1]
        assert all(bool((weight == loaded.info.step).all()) for weight in loaded.state["model"].values())
    with AsyncCheckpointer(root, model=nn.Linear(256, 256)) as ckpt:
        assert ckpt.resume() is not None
        ckpt.save(10**6).wait()
        ckpt.wait()
        listed = {info.id for info in ckpt.checkpoints()}
    assert {path.name[:8] for path in (root / "data").iterdir()} == listed
    assert [path for path in root.rglob(".*") if path.is_file()] == []


# -- which one is loaded -----------------------------------------------------------------------------------


def test_d9_the_newest_is_loaded_and_nothing_where_there_is_none(tmp_path: Path) -> None:
    assert resumed(tmp_path / "absent") == 0
    assert resumed(tmp_path / "absent") == 0  # nor does having looked make one
    saved(tmp_path / "run", 900, 1000)
    assert resumed(tmp_path / "run") == 1000


def _truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def _swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def _remove(path: Path, other: Path) -> None:
    path.unlink()


DAMAGES = {
    _truncate: "bytes instead of",
    _empty: "has 0 bytes instead of",
    _flip: "digest",
    _swap: "does not match its digest|is not the manifest that was committed|bytes instead of",
    _remove: "is missing",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__.strip("_") for damage in DAMAGES])
@pytest.mark.parametrize("what", ["*.safetensors", "manifest.json"])
def test_d10_a_damaged_newest_one_is_said_and_the_one_before_it_is_taken(
    tmp_path: Path, damage: Callable[[Path, Path], None], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 1, 2, 3)
    (path,), (other,) = (list(folder_of(tmp_path, step).glob(what)) for step in (3, 2))
    damage(path, other)
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 2
    assert any("00000003" in record.getMessage() and "damaged" in record.getMessage() for record in caplog.records)
    with pytest.raises(CheckpointCorruptError, match=DAMAGES[damage]):
        load(tmp_path, 3)


def test_d10_a_manifest_that_is_whole_and_not_the_one_that_was_committed_is_damage(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    path = folder_of(tmp_path, 2) / "manifest.json"
    fields = unseal(path.read_bytes(), "manifest")
    path.write_bytes(seal({**fields, "run": fields["run"][::-1]}))
    assert resumed(tmp_path) == 1
    with pytest.raises(CheckpointCorruptError, match="is not the manifest that was committed"):
        load(tmp_path, 2)


def test_d10_a_disk_that_cannot_read_it_counts_as_damage(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    pack = str(next(folder_of(tmp_path, 2).glob("*.safetensors")))

    class Unreadable(WatchedFiles):
        def around(self, call: Call) -> Any:
            if call.name == "open" and call.paths[0] == pack:
                raise OSError(errno.EIO, "Input/output error", pack)
            return call.make()

    assert resumed(LocalStorage(tmp_path, files=Unreadable())) == 1


def test_d10_where_all_are_damaged_that_is_an_error_and_never_a_silent_start_from_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        _flip(next(folder_of(tmp_path, step).glob("*.safetensors")), tmp_path)
    with pytest.raises(RestoreError):
        resumed(tmp_path)


@pytest.mark.parametrize("pointer", ["gone", "dangling", "wrong", "torn", "stale", "ahead"])
def test_d11_the_latest_is_found_whatever_became_of_the_pointers_to_it(tmp_path: Path, pointer: str) -> None:
    saved(tmp_path, 900)
    stale = (tmp_path / "latest").read_bytes()
    saved(tmp_path, 1000, resume=True)
    if pointer in ("stale", "ahead"):  # whole both, and neither is true
        said = seal({**unseal(stale, "latest"), "slot": 99}) if pointer == "ahead" else stale
        (tmp_path / "latest").write_bytes(said)
        assert resumed(tmp_path) == 1000
        assert load(tmp_path).info.step == 1000
        return
    for path in (tmp_path / "latest", tmp_path / "checkpoints/latest"):
        old = path.read_bytes() if path.is_file() else b""
        path.unlink()
        if pointer == "dangling":
            path.symlink_to("nowhere")
        elif pointer == "wrong":
            path.write_text('{"slot": 1, "seq": 1, "step": 900}')
        elif pointer == "torn":
            path.write_bytes(old[:10])
    assert resumed(tmp_path) == 1000
    assert load(tmp_path).info.step == 1000


def test_d12_a_step_that_is_named_is_that_one_or_an_error_that_says_what_there_is(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10)
    assert load(tmp_path, 5).info.step == 5
    with pytest.raises(CheckpointNotFoundError, match="steps 5, 10 are there"):
        load(tmp_path, 7)
    _flip(next(folder_of(tmp_path, 5).glob("*.safetensors")), tmp_path)
    with pytest.raises(CheckpointCorruptError):
        load(tmp_path, 5)
    with (
        AsyncCheckpointer(tmp_path, model=nn.Linear(4, 4)) as ckpt,
        pytest.raises(CheckpointCorruptError, match=r"-step-5-.* does not match its digest"),
    ):
        ckpt.resume(which=5)


def test_d13_what_is_listed_is_ours_oldest_first_whatever_else_lies_there(tmp_path: Path) -> None:
    saved(tmp_path, 900, 1000, 1100)
    for name in ("checkpoint_step_9999.pt", "checkpoint_step_1.pt.tmp", "data/notes.txt", "commits/x.json", ".tmp-1"):
        (tmp_path / name).write_text("alien")
    (tmp_path / "data/00000099-step-9999-i1-00000000").mkdir()
    with AsyncCheckpointer(tmp_path, model=nn.Linear(4, 4)) as ckpt:
        found = ckpt.checkpoints()
    assert [info.step for info in found] == [900, 1000, 1100]
    assert [info.created for info in found] == sorted(info.created for info in found)
    assert all(info.size > 0 for info in found)


def test_d14_of_one_more_than_are_kept_the_oldest_goes(tmp_path: Path) -> None:
    for count in range(1, 5):
        saved(tmp_path / str(count), *range(1, count + 2), keep=RetentionPolicy(last=count))
        with AsyncCheckpointer(tmp_path / str(count), model=nn.Linear(4, 4)) as ckpt:
            assert [info.step for info in ckpt.checkpoints()] == list(range(2, count + 2))
    saved(tmp_path / "long", *range(1, 8), keep=RetentionPolicy(last=2))
    assert len(list((tmp_path / "long" / "data").iterdir())) in (2, 3)  # deletion may be one commit late


def test_d14_after_a_rollback_the_lower_step_just_saved_stays_and_is_the_latest(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30, 40)
    model = nn.Linear(4, 4)
    with AsyncCheckpointer(tmp_path, model=model, keep=RetentionPolicy(last=2)) as ckpt:
        state = ckpt.resume(which=20)
        assert state is not None
        assert ckpt.save(25).wait().step == 25
        ckpt.wait()
        latest = ckpt.latest()
        assert latest is not None
        assert latest.step == 25
        assert 25 in [info.step for info in ckpt.checkpoints()]
    assert load(tmp_path).info.step == 25
    with AsyncCheckpointer(tmp_path, model=model, keep=RetentionPolicy(last=2)) as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert state.step == 25
        ckpt.save(26).wait()
        ckpt.wait()
        assert [info.step for info in ckpt.checkpoints()] == [25, 26], "the most recent, and not the highest"


SAVES = 100


class Polled:
    """Asks again and again, in a thread, until it is told to stop; `said` are the answers."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._is_over = threading.Event()
        self.said: list[int] = []
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._poll)

    def _poll(self) -> None:
        try:
            while not self._is_over.is_set():
                self.said.append(self._ask())
        except BaseException as error:
            self.failed = error

    def __enter__(self) -> Polled:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def test_d15_at_no_moment_is_there_no_latest_nor_an_older_one_than_before(tmp_path: Path) -> None:
    root = tmp_path / "run"
    names = ["checkpoint_latest.pt"]
    model = nn.Linear(4, 4)

    def pointed() -> int:
        step: int = unseal((root / "latest").read_bytes(), "latest")["step"]
        return step

    def linked() -> int:
        assert not os.path.isabs(os.readlink(root / "checkpoint_latest.pt"))
        step: int = json.loads((root / "checkpoint_latest.pt/manifest.json").read_bytes())["step"]
        return step

    with Run.open(root, compat_names=names, logs=False) as run, AsyncCheckpointer(run, model=model) as ckpt:
        ckpt.save(1).wait()
        ckpt.wait()
        run.save_results({})  # links are made before it
        with Polled(pointed) as pointer, Polled(linked) as link, Polled(lambda: load(root).info.step) as loaded:
            for step in range(2, SAVES + 1):
                ckpt.save(step).wait()
    for polled in (pointer, link, loaded):
        assert polled.failed is None
        assert polled.said == sorted(polled.said)
        assert set(polled.said) <= set(range(1, SAVES + 1))
    assert len(set(loaded.said)) > 2
    root.rename(tmp_path / "moved")
    assert json.loads((tmp_path / "moved/checkpoint_latest.pt/manifest.json").read_bytes())["step"] == SAVES


def test_d15_in_an_object_store_the_pointer_is_an_object_that_is_always_there() -> None:
    storage = MemoryStorage("d15")
    with AsyncCheckpointer(storage, model=nn.Linear(2, 2)) as ckpt:
        ckpt.save(1).wait()
        ckpt.wait()
        with Polled(lambda: unseal(asyncio.run(storage.get("latest")), "latest")["step"]) as polled:
            for step in range(2, SAVES + 1):
                ckpt.save(step).wait()
    assert polled.failed is None
    assert polled.said == sorted(polled.said)


# -- disks that are full or forbidden ----------------------------------------------------------------------


class Filling(WatchedFiles):
    """A disk that has no room left, once it `is_full`; `midway` it takes names, and has none without one."""

    is_full = midway = False

    def around(self, call: Call) -> Any:
        if self.midway and call.name == "create_unnamed":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), *call.paths[:1])
        refused = ("write", "reserve") if self.midway else ("write", "reserve", "create", "create_unnamed")
        if self.is_full and call.name in refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *call.paths[:1])
        return call.make()


@pytest.mark.parametrize("midway", [False, True])
def test_d17_a_full_disk_costs_a_checkpoint_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, midway: bool
) -> None:
    files = Filling()
    files.midway = midway
    model = nn.Linear(4, 4)
    config = MetricsConfig(port=0)
    with AsyncCheckpointer(
        LocalStorage(tmp_path, files=files),
        model=model,
        save=SavePolicy(every_steps=1),
        metrics=config,
        executor="thread",
    ) as ckpt:
        first = ckpt.step(1)
        assert first is not None
        first.wait()
        ckpt.wait()
        before = sorted(path.name for path in (tmp_path / "data").rglob("*"))
        files.is_full = True
        second = ckpt.step(2)
        assert second is not None
        with pytest.raises(SaveFailed, match="no space left") as caught:
            second.wait()
        assert isinstance(caught.value.__cause__, StorageDenied)
        assert sorted(path.name for path in (tmp_path / "data").rglob("*")) == before
        assert load(tmp_path).info.step == 1
        found = scrape(ckpt.metrics_port)
        assert found["asyncckpt_saves_total", frozenset({("outcome", "failed")})] == 1
        assert found["asyncckpt_storage_errors_total", frozenset({("backend", "local"), ("reason", "full")})] >= 1
        files.is_full = False
        third = ckpt.step(3)
        assert third is not None
        assert third.wait().step == 3
    said = [record.getMessage() for record in caplog.records if "no space left" in record.getMessage()]
    assert len(said) == 1, said


@pytest.mark.root
def test_d17_on_a_really_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        reason = f"needs the right to mount: {mounted.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    try:
        model = nn.Linear(380, 380)  # 0.58 MB: one fits, and another does not
        with AsyncCheckpointer(tmp_path / "run", model=model, executor="thread") as ckpt:
            ckpt.save(1).wait()
            with torch.no_grad():
                model.weight.add_(1)
            with pytest.raises(SaveFailed, match="no space left"):
                ckpt.save(2).wait()
            assert [info.step for info in ckpt.checkpoints()] == [1]
        assert load(tmp_path / "run").info.step == 1
        assert len(list((tmp_path / "run/data").iterdir())) == 1
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_d18_a_folder_that_may_not_be_written_is_said_before_training_with_a_way_out(tmp_path: Path) -> None:
    class Forbidden(WatchedFiles):
        def around(self, call: Call) -> Any:
            if call.name in ("mkdir", "create", "create_unnamed"):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), *call.paths[:1])
            return call.make()

    with pytest.raises(StorageDenied, match=r"permission denied; .* another root"):
        Run.open(LocalStorage(tmp_path / "run", files=Forbidden()))
    with (
        AsyncCheckpointer(
            LocalStorage(tmp_path / "other", files=Forbidden()), model=nn.Linear(2, 2), executor="thread"
        ) as ckpt,
        pytest.raises(SaveFailed, match="permission denied"),
    ):
        ckpt.save(1).wait()


BITS = """
import os, sys
from pathlib import Path
from asyncckpt import AsyncCheckpointer, Run
from asyncckpt.errors import StorageDenied, StorageError
import torch
folder = Path(sys.argv[1])
with Run.open(folder / "warm", config={"lr": 1}) as run:
    with AsyncCheckpointer(run, model=torch.nn.Linear(2, 2), executor="thread") as ckpt:
        ckpt.save(1).wait()
if os.getuid() == 0:  # permission bits mean nothing to root; and what is imported is where only root may read
    os.chown(folder, 65534, 65534)
    os.setgid(65534), os.setuid(65534)
closed = folder / "closed"
closed.mkdir(), closed.chmod(0o500)
begun = []
for mode in ("new", "auto", "overwrite"):
    try:
        Run.open(closed / "run", mode=mode, config={"lr": 1})
    except StorageDenied as error:
        begun.append(str(error))
print(list(closed.iterdir()), len(begun))
print(begun[0])
hidden = folder / "hidden"
with AsyncCheckpointer(hidden, model=torch.nn.Linear(2, 2), executor="thread") as ckpt:
    ckpt.save(1).wait()
def resumed():
    with AsyncCheckpointer(hidden, model=torch.nn.Linear(2, 2), executor="thread") as ckpt:
        ckpt.resume()
opened = lambda: Run.open(hidden, mode="auto")
for unread, act in ((hidden / "commits", resumed), (hidden / "run.json", resumed), (hidden, resumed), (hidden, opened)):
    unread.chmod(0)
    try:
        act()
    except StorageError as error:
        print(type(error).__name__, error)
    unread.chmod(0o700)
with AsyncCheckpointer(hidden, model=torch.nn.Linear(2, 2), executor="thread") as ckpt:
    print(ckpt.resume().step)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits are those of POSIX")
def test_d18_with_real_permission_bits_nothing_is_begun_and_nothing_is_taken_for_empty() -> None:
    """A folder that may not be written, and one that may not be read, by a process that is not root."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is below what nobody else may enter
        done = subprocess.run(
            [sys.executable, "-c", BITS, folder],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(SOURCE), "HOME": folder},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    begun, said, *hidden, step = done.stdout.splitlines()
    assert begun == "[] 3"
    assert "permission denied" in said
    assert "another root" in said
    assert [line.partition(" ")[0] for line in hidden] == ["StorageDenied"] * 4
    assert all("permission denied" in line for line in hidden)
    assert step == "1"


def test_d30_a_step_waits_for_no_save_no_picture_and_no_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is "1 to 2 seconds, and does not block the training": here none of them ever ends before it does."""
    from asyncckpt.metrics_log import MetricsLog, read_metrics
    from asyncckpt.plots import Plotter, plotter
    from asyncckpt.trackers import Trackers, WandbTracker
    from tests.trackers.stub import Wandb

    drawing, draw, wandb = threading.Event(), threading.Event(), Wandb()
    real = plotter.training_curves

    def held(*arguments: Any) -> Any:
        drawing.set()
        draw.wait()
        return real(*arguments)

    monkeypatch.setattr(plotter, "training_curves", held)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    wandb.gate = threading.Event()
    store, training, steps = GatedStorage(MemoryStorage("d30")), Training(), 9
    plots, log = Plotter(tmp_path / "plots", every=1), MetricsLog(tmp_path / "logs", every=1)
    trackers = Trackers(WandbTracker("d30"))
    with (
        log,
        training.checkpointer(
            store, save=SavePolicy(every_steps=1), budget=Budget(slowdown=None), executor="thread", listeners=[trackers]
        ) as ckpt,
    ):
        with store.hold("put", "data/*"):
            for step in range(1, steps + 1):
                loss = training.step()
                ckpt.step(step)
                log.log(step, {"loss": loss})
                assert read_metrics(tmp_path / "logs").latest_step == step, "what was logged is there"
                trackers.log(step, {"loss": loss})
                plots.training(step, log.history())
            drawing.wait(60)
            assert ckpt.checkpoints() == []
            assert (plots.drawn, wandb.begun) == (0, [])
        draw.set()
        wandb.gate.set()
        ckpt.wait()
        latest = ckpt.latest()
        assert latest is not None
        assert latest.step == steps
    assert trackers.close(60)
    assert plots.close(60)
    assert plots.drawn > 0
    assert [row["loss"] for row in wandb.begun[0].rows if "loss" in row] == training.losses


# -- going on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [1, 5, 8])
def test_d28_the_first_step_after_a_resume_has_the_loss_that_it_would_have_had(tmp_path: Path, stopped: int) -> None:
    straight = Training()
    for _ in range(9):
        straight.step()
    before = Training()
    with Run.open(tmp_path, logs=False) as run, before.checkpointer(run) as ckpt:
        for step in range(1, stopped + 1):
            before.step()
            if step == stopped:
                ckpt.save(step).wait()
    after = Training(seed=99)
    with Run.open(tmp_path, mode="resume", logs=False) as run, after.checkpointer(run) as ckpt:
        state = ckpt.resume()
        assert state is not None
        start_step = state.step + 1
        assert start_step == stopped + 1
        for _ in range(start_step, 10):
            after.step()
    assert before.losses + after.losses == straight.losses


KILLED = """
import os, random, signal, sys
import numpy, torch
from torch import nn
from asyncckpt import AsyncCheckpointer, TrainingState

root, last, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
seed = 0 if kill_at or root == "straight" else 77  # what a resume does not bring back is other than it was
random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)

class Loader:
    "Numbers in an order of its own, from where it was."
    def __init__(self):
        self.generator, self.at = torch.Generator().manual_seed(seed), 0
    def __iter__(self):
        while True:
            self.at += 1
            yield torch.randn(4, 8, generator=self.generator)
    def state_dict(self):
        return {"generator": self.generator.get_state(), "at": self.at, 3: ("a", (None, 2.5))}
    def load_state_dict(self, state):
        random.random(), numpy.random.random(), torch.rand(())  # what a load draws is drawn by no step
        assert state[3] == ("a", (None, 2.5)) and type(state[3]) is tuple
        self.generator.set_state(state["generator"])
        self.at = state["at"]

model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)).to(torch.bfloat16)
optimizers = {
    "adamw": torch.optim.AdamW(model[0].parameters(), lr=0.01, betas=(0.8, 0.95), amsgrad=True),
    "sgd": torch.optim.SGD([*model[1].parameters(), *model[3].parameters()], lr=0.01, momentum=0.9),
}
schedulers = [
    torch.optim.lr_scheduler.OneCycleLR(optimizers["adamw"], 0.1, total_steps=20),
    torch.optim.lr_scheduler.ReduceLROnPlateau(optimizers["sgd"], patience=1),
]
loader = Loader()
with AsyncCheckpointer(root, model=model, optimizer=optimizers, scheduler=schedulers, dataloader=loader) as ckpt:
    state = ckpt.resume()
    batches = iter(loader)
    for step in range(state.step + 1 if state else 1, last + 1):
        noise = random.random() + float(numpy.random.random()) + float(torch.rand(()))
        loss = model(next(batches).to(torch.bfloat16)).float().square().mean() * (1 + noise)
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step(), optimizer.zero_grad()
        schedulers[0].step(), schedulers[1].step(loss.detach())
        print(step, loss.item().hex(), flush=True)
        handle = ckpt.save(step) if step == 4 else None
        if handle is not None:
            handle.wait()
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_d28_c32_a_killed_training_goes_on_in_a_new_process_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Momentum of bfloat16, tuples and integer keys, buffers, two optimizers, their schedules, data and all noise."""

    def run(root: str, last: int, kill_at: int, code: int) -> dict[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, root, str(last), str(kill_at)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(SOURCE), "ASYNCCKPT_RUNTIME_DIR": str(tmp_path / "runtime")},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        return {int(step): loss for step, _, loss in (line.partition(" ") for line in done.stdout.splitlines())}

    straight = run("straight", 10, 0, 0)
    assert [*straight] == [*range(1, 11)]
    before, after = run("run", 10, 6, -signal.SIGKILL), run("run", 10, 0, 0)
    assert before == {step: straight[step] for step in range(1, 7)}
    assert after == {step: straight[step] for step in range(5, 11)}


class _Numbered:
    """What belongs to one rank."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def _ranks_save(root: Path) -> tuple[str, float, int, float]:
    torch.manual_seed(dist.get_rank())
    model, own = nn.Linear(4, 4), _Numbered(dist.get_rank())
    with (
        Run.open(root, mode="auto", logs=False) as run,
        AsyncCheckpointer(run, model=model, extra={"own": own}) as ckpt,
    ):
        ckpt.save(1).wait()
        return run.id, torch.rand(1).item(), own.number, model.weight.sum().item()


def _ranks_resume(root: Path) -> tuple[str, float, int, float]:
    model, own = nn.Linear(4, 4), _Numbered(-1)
    with (
        Run.open(root, mode="auto", logs=False) as run,
        AsyncCheckpointer(run, model=model, extra={"own": own}) as ckpt,
    ):
        state = ckpt.resume()
        assert state is not None
        assert state.step == 1
        return run.id, torch.rand(1).item(), own.number, model.weight.sum().item()


def _ranks_resume_in_other_numbers(root: Path) -> str:
    with AsyncCheckpointer(root, model=nn.Linear(4, 4)) as ckpt:
        try:
            ckpt.resume()
        except (RestoreError, RanksDiffer) as error:
            return str(error)
    return "resumed"


@pytest.mark.ranks
def test_d31_ranks_write_one_checkpoint_and_each_gets_its_own_state_back(tmp_path: Path) -> None:
    before = run_ranks(_ranks_save, 2, tmp_path / "run")
    after = run_ranks(_ranks_resume, 2, tmp_path / "run")
    assert [each[:3] for each in after] == [each[:3] for each in before]
    assert before[0][1] != before[1][1]
    assert [each[3] for each in after] == [before[0][3]] * 2  # what all of them share is rank 0's
    (data,) = (tmp_path / "run/data").iterdir()
    packs = sorted(path.name for path in data.glob("*.safetensors"))
    assert {name[:19] for name in packs} == {"rank-00000-of-00002", "rank-00001-of-00002"}
    said = run_ranks(_ranks_resume_in_other_numbers, 3, tmp_path / "run")
    assert all("was saved by 2 rank(s), this training has 3" in each for each in said)


def _one_rank_dies(root: Path) -> str:
    with AsyncCheckpointer(root, model=nn.Linear(4, 4), executor="thread") as ckpt:
        ckpt.save(1).wait()
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        from asyncckpt.distributed import coordinator
        from tests.ranks.looking import failure_of, shorten_deadline

        coordinator.FAREWELL = 0.5
        shorten_deadline(ckpt, 2)
        return str(failure_of(ckpt.save(2)))


@pytest.mark.ranks
def test_d31_what_a_rank_died_in_is_never_listed(tmp_path: Path) -> None:
    said, _ = run_ranks(_one_rank_dies, 2, tmp_path / "run", killed=[1])
    assert "rank 1" in said
    assert load(tmp_path / "run").info.step == 1


def test_d32_a_run_in_a_bucket_is_saved_and_resumed_by_its_url_alone(somewhere: Place) -> None:
    for first, second in itertools.pairwise((0, 3, 6)):
        training = Training(seed=first)
        with somewhere.open(mode="auto") as run, training.checkpointer(run) as ckpt:
            state = ckpt.resume()
            assert (state.step if state else 0) == first
            for _ in range(3):
                training.step()
            ckpt.save(second).wait()
    assert load(somewhere.root, storage_options=somewhere.options).info.step == 6


# -- what the seed calls future ----------------------------------------------------------------------------


def test_d34_every_byte_is_checked_on_demand_and_what_is_wrong_is_named(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from asyncckpt.cli.app import app

    saved(tmp_path, 1, 2)
    assert CliRunner().invoke(app, ["verify", str(tmp_path)]).exit_code == 0
    _flip(next(folder_of(tmp_path, 2).glob("*.safetensors")), tmp_path)
    result = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert result.exit_code == 1
    assert "00000001  step 1  ok" in result.stdout
    assert "00000002  step 2  damaged" in result.stdout


def test_d35_a_backup_is_made_of_every_checkpoint_and_restored_from(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1, 2, mirror=tmp_path / "backup")
    assert load(tmp_path / "backup").info.step == 2
    _flip(next(folder_of(tmp_path / "run", 2).glob("*.safetensors")), tmp_path)
    assert resumed(tmp_path / "run", mirror=tmp_path / "backup") == 2


def test_d36_all_runs_of_a_folder_are_one_document_for_a_page_to_show(tmp_path: Path) -> None:
    """The page itself is the dashboard's."""
    from click.testing import CliRunner

    from asyncckpt.cli.app import app

    for name in ("one", "two"):
        with Run.open(tmp_path / name, config={"lr": name}, logs=False) as run:
            saved(run, 1)
    found = json.loads(CliRunner().invoke(app, ["compare", str(tmp_path), "--json"]).stdout)
    assert [(each["settings"]["lr"], each["step"], each["status"]) for each in found["runs"]] == [
        ("one", 1, "unfinished"),
        ("two", 1, "unfinished"),
    ]
    one = json.loads(CliRunner().invoke(app, ["report", str(tmp_path / "one"), "--json"]).stdout)
    assert [each["why"] for each in one["checkpoints"]] == ["kept: latest"]
