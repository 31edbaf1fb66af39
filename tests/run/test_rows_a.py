"""Seed A, what is neither a file of its own nor a tracker: types, errors, graceful starts, resuming by keyword."""

from __future__ import annotations

import asyncio
import errno
import inspect
import json
import logging
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

import asyncckpt
from asyncckpt import (
    AsyncCheckpointer,
    Run,
    errors,
    launch,
    plots,
    preemption,
    report,
    run,
    trackers,
    trainer,
    training,
)
from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointCorruptError,
    IncompatibleState,
    StorageError,
    TransientError,
    UnsupportedState,
)
from asyncckpt.run import ConfigurationInvalid, find_latest_checkpoint, set_seed
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.fsspec import FsspecStorage
from asyncckpt.testing.files import WithoutSymlinks
from asyncckpt.testing.s3server import S3Server

from .conftest import Place, Train

UTILITIES = [
    utility
    for module in (run, trackers)
    for utility in [getattr(module, name) for name in module.__all__]
    if inspect.isfunction(utility)
]


@pytest.mark.parametrize("utility", UTILITIES, ids=lambda utility: utility.__name__)
def test_a11_every_utility_is_typed_and_takes_paths_of_every_kind(utility: Any) -> None:
    hints = get_type_hints(utility)
    assert hints.keys() == {*inspect.signature(utility).parameters, "return"}
    paths = [hints[name] for name in ("path", "folder", "folders", "root", "run_artifact_dir") if name in hints]
    assert all("PathLike" in str(hint) and "str" in str(hint) for hint in paths)


def test_a11_type_checkers_are_told_so() -> None:
    assert (Path(asyncckpt.__file__).parent / "py.typed").is_file()


def test_a11_where_there_are_no_symlinks_a_training_goes_on_from_the_latest(tmp_path: Path) -> None:
    """As on Windows without the privilege: the seed's ``latest`` was a link."""
    for step in (1, 2):
        storage = LocalStorage(tmp_path / "run", files=WithoutSymlinks())
        with AsyncCheckpointer(storage, model=nn.Linear(2, 2), executor="thread") as ckpt:
            state = ckpt.resume()
            assert (state.step if state else 0) == step - 1
            ckpt.save(step).wait()
        assert "symlinks cannot be made here" in storage.fallbacks["symlinks"]
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_symlink()]
    assert asyncckpt.load(tmp_path / "run").info.step == 2


def test_a11_where_there_are_no_symlinks_other_names_are_left_out_and_nothing_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(self: Path, *_: object, **named: object) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    with Run.open(tmp_path / "run", compat_names=["latest.ckpt", "step-{step}"], logs=False) as begun:
        with AsyncCheckpointer(begun, model=nn.Linear(2, 2), executor="thread") as ckpt:
            for step in (1, 2):
                ckpt.save(step).wait()
        begun.save_results({"loss": 1.0})
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.startswith(f"the links of compat_names in {tmp_path / 'run'} are not as they should be: [Errno 1] ")
    assert asyncckpt.load(tmp_path / "run").info.step == 2
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.endswith(".draft")]


def test_a13_every_category_of_errors_is_caught_as_what_it_is_and_as_ours() -> None:
    """File system, serialization, network, validation: ``JSONEncodeError`` of the document is in no Python."""
    for ours, known in (
        (StorageError, OSError),
        (errors.StorageDenied, OSError),
        (TransientError, StorageError),
        (UnsupportedState, TypeError),
        (CheckpointCorruptError, errors.RestoreError),
        (errors.CheckpointNotFoundError, FileNotFoundError),
        (errors.CheckpointDirectoryExistsError, FileExistsError),
        (ConfigurationInvalid, ValueError),
    ):
        assert issubclass(ours, known)
        assert issubclass(ours, AsyncCkptError)
    raised = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert all(issubclass(kind, AsyncCkptError) for kind in raised)
    assert [kind.__name__ for kind in raised if kind.__name__ not in str(errors.__doc__)] == []
    elsewhere = [
        kind
        for place in (asyncckpt, launch, plots, preemption, report, run, trackers, trainer, training)
        for kind in [getattr(place, name) for name in place.__all__]
        if inspect.isclass(kind) and issubclass(kind, Exception)
    ]
    assert {trackers.TrackerUnavailable, ConfigurationInvalid} <= {*elsewhere}
    assert [kind for kind in elsewhere if not issubclass(kind, AsyncCkptError)] == []


def test_a14_the_documents_own_snippet(tmp_path: Path) -> None:
    """``if path: resume else: start fresh``, twice."""
    model, begun = nn.Linear(2, 2), []
    for step in (1, 2):
        path = find_latest_checkpoint(tmp_path)
        if path:
            begun.append(f"resume {torch.load(path, weights_only=True)['step']}")
        else:
            begun.append("fresh")
        torch.save({"step": step, "model": model.state_dict()}, tmp_path / f"step{step}.pt")
    assert begun == ["fresh", "resume 1"]


def test_a14_the_same_with_a_checkpointer(train: Train) -> None:
    program = """
import torch
from asyncckpt import AsyncCheckpointer
model = torch.nn.Linear(2, 2)
with AsyncCheckpointer("run", model=model) as ckpt:
    state = ckpt.resume()
    print("fresh" if state is None else f"resume {state.step}")
    ckpt.save(state.step + 1 if state else 1).wait()
"""
    assert [train(program).stdout.strip() for _ in range(3)] == ["fresh", "resume 1", "resume 2"]


def test_a16_what_another_process_writes_is_the_latest_at_once(tmp_path: Path) -> None:
    """Nothing is remembered from one look to the next, and so nothing can be stale."""
    torch.save({}, tmp_path / "step1.pt")
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step1.pt")
    subprocess.run(
        [sys.executable, "-c", "import sys, torch; torch.save({}, sys.argv[1])", str(tmp_path / "step2.pt")], check=True
    )
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step2.pt")
    (tmp_path / "step2.pt").unlink()
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step1.pt")


def test_a16_so_it_is_with_a_run(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path / "run", model=nn.Linear(2, 2), executor="thread") as ckpt:
        ckpt.save(1).wait()
        reader = AsyncCheckpointer(LocalStorage(tmp_path / "run"), model=nn.Linear(2, 2), executor="thread")
        assert reader.latest() is not None
        ckpt.close()
    program = """
import sys, torch
from asyncckpt import AsyncCheckpointer
with AsyncCheckpointer(sys.argv[1], model=torch.nn.Linear(2, 2)) as ckpt:
    ckpt.resume()
    ckpt.save(2).wait()
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], check=True)
    found = reader.latest()
    assert found is not None
    assert found.step == 2
    reader.close()


@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
def test_a16_so_it_is_in_a_bucket_whose_listings_a_client_may_remember(s3: S3Server, backend: str) -> None:
    """fsspec keeps what it has listed: whoever looked before the other process wrote would find the old one."""
    url, options = f"s3://tests/{secrets.token_hex(8)}/run", {**s3.options(), "backend": backend}
    program = """
import json, sys, torch
from asyncckpt import AsyncCheckpointer
url, options, step = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
with AsyncCheckpointer(url, model=torch.nn.Linear(2, 2), storage_options=options) as ckpt:
    ckpt.resume()
    ckpt.save(step).wait()
"""
    reader = AsyncCheckpointer(url, model=nn.Linear(2, 2), storage_options=options, executor="thread")
    assert reader.latest() is None
    for step in (1, 2):
        subprocess.run([sys.executable, "-c", program, url, json.dumps(options), str(step)], check=True)
        assert [info.step for info in reader.checkpoints()] == [*range(1, step + 1)]
        found = reader.latest()
        assert found is not None
        assert found.step == step
        assert asyncckpt.load(url, storage_options=options).info.step == step
    reader.close()


def test_a16_so_it_is_where_a_file_system_of_fsspec_has_a_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all ask for ``use_listings_cache``: what they know is to be forgotten before each look."""
    from fsspec.implementations.memory import MemoryFileSystem

    known, find = dict[str, Any](), MemoryFileSystem.find

    def remembered(files: Any, path: str, **named: Any) -> Any:
        if path not in known:
            known[path] = find(files, path, **named)
        return known[path]

    monkeypatch.setattr(MemoryFileSystem, "find", remembered)
    monkeypatch.setattr(MemoryFileSystem, "invalidate_cache", lambda *_: known.clear())
    url = f"memory://{secrets.token_hex(8)}"

    async def act() -> list[list[str]]:
        writer, reader, seen = FsspecStorage(url), FsspecStorage(url), []
        for name in ("a", "b"):
            await writer.put(name, [b"it"])
            seen.append([info.key async for info in reader.list()])
        await writer.aclose()
        await reader.aclose()
        return seen

    assert asyncio.run(act()) == [["a"], ["a", "b"]]


class Trained:
    """A model with an optimizer that has momentum."""

    def __init__(self, width: int = 4) -> None:
        set_seed(1)
        self.model = nn.Linear(width, width)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def step(self) -> None:
        self.model(torch.ones(2, self.model.in_features)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def checkpointer(self, root: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(root, model=self.model, optimizer=self.optimizer, executor="thread")


def test_a25_the_optimizer_can_be_left_out(tmp_path: Path) -> None:
    first, other = Trained(), Trained()
    first.step()
    with first.checkpointer(tmp_path / "run") as ckpt:
        ckpt.save(1).wait()
    with other.checkpointer(tmp_path / "run") as ckpt:
        ckpt.restore("latest", exclude=("optimizer",))
    assert torch.equal(other.model.weight, first.model.weight)
    assert not other.optimizer.state


def test_a25_another_architecture_is_refused_by_name_before_anything_is_changed(tmp_path: Path) -> None:
    """Also where the model fits, and what comes after it does not."""
    first, wider, fewer = Trained(), Trained(8), Trained()
    fewer.optimizer = torch.optim.SGD([fewer.model.weight], lr=0.1, momentum=0.9)
    first.step()
    with first.checkpointer(tmp_path / "run") as ckpt:
        ckpt.save(1).wait()
    for other, said in ((wider, "weight"), (fewer, "optimizer has groups")):
        before = other.model.weight.clone()
        with other.checkpointer(tmp_path / "run") as ckpt:
            for act in (ckpt.resume, ckpt.restore):
                with pytest.raises(IncompatibleState, match=said):
                    act()
        assert torch.equal(other.model.weight, before)


@pytest.mark.parametrize("word", ["latest", True])
def test_a25_the_keyword_latest_goes_on_with_the_run(somewhere: Place, word: Any) -> None:
    for step in (1, 2):
        # The first has nothing to go on with; to the second the keyword alone says it.
        begun = somewhere.open(config={"checkpoint": {"resume": word}}, mode="auto" if step == 1 else "new")
        with begun, AsyncCheckpointer(begun, model=nn.Linear(2, 2), executor="thread") as ckpt:
            state = ckpt.resume()
            assert (state.step if state else 0) == step - 1
            ckpt.save(step).wait()


def test_a25b_a_start_is_fast_and_a_training_script_and_a_sweep_begin_alike(tmp_path: Path) -> None:
    """Fast: neither W&B, nor plots, nor codecs, nor an object store is imported for a folder."""
    program = """
import sys
from asyncckpt import Run
for name in ("train", "sweep"):
    with Run.open(sys.argv[1] + "/{id}", name=f"../{name}", config={"lr": 1}, logs=False) as run:
        print(run.id)
slow = {"wandb", "matplotlib", "zstandard", "cryptography", "ijson", "fsspec", "s3fs", "obstore", "tensorboard"}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    ids = ended.stdout.split()
    assert [name.split("_")[0] for name in ids] == ["train", "sweep"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ids)


def test_a12_what_cannot_be_had_is_said_on_stderr_and_nothing_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert not run.save_config_to_json({}, tmp_path / "file" / "config.json")
        assert find_latest_checkpoint(tmp_path / "nowhere") is None
        with Run.open(tmp_path / "run", config=tmp_path / "absent.yml", logs=False) as begun:
            assert begun.config == {}
    assert len(caplog.records) == 2
