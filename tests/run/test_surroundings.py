"""A run among ranks, on an event loop, beside a worker process, and after everything went wrong at once (A12)."""

from __future__ import annotations

import asyncio
import errno
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, Run, SavePolicy
from asyncckpt.errors import RunRefused, StorageError
from asyncckpt.run import guard
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.ranks import run_ranks


async def _notebook(root: Path) -> str:
    with Run.open(root, logs=False) as run, AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
        await ckpt.save(1)
        run.save_results({"loss": 1.0})
    return run.id


def test_a_run_is_opened_on_a_running_event_loop_as_in_a_notebook(tmp_path: Path) -> None:
    run_id = asyncio.run(_notebook(tmp_path / "run"))
    assert json.loads((tmp_path / "run/results.json").read_text())["run_id"] == run_id


@pytest.mark.skipif(sys.platform != "linux", reason="a worker process needs Linux")
def test_a_worker_process_saves_for_a_run(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(repository / "train.py"), raising=False)
    with (
        Run.open(tmp_path / "run", compat_names=["step-{step}"]) as run,
        AsyncCheckpointer(run, model=nn.Linear(2, 2), executor="process") as ckpt,
    ):
        info = ckpt.save(1).wait()
    assert info.code_version == run.code
    assert run.code is not None
    assert (tmp_path / "run/step-1/manifest.json").exists()


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Run.open("run", logs=False) as run:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
            ckpt.save(1)
    assert not (tmp_path / "elsewhere/run").exists()
    assert (tmp_path / "run/run.json").exists()


def test_a_storage_that_is_given_stays_open_and_one_that_a_checkpointer_closed_is_not_missed(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "run")
    Run.open(storage, logs=False).close()
    assert json.loads(asyncio.run(_got(storage)))["mode"] == "new"
    with Run.open(storage, mode="resume", logs=False) as run:
        with AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
            ckpt.save(1)
        run.save_results({"loss": 1.0})
    assert json.loads((tmp_path / "run/results.json").read_text())["run_id"] == run.id


async def _got(storage: LocalStorage) -> str:
    identity = json.loads(bytes(await storage.get("identity.json")))
    return json.dumps(identity["starts"][0])


def test_a12_nothing_beside_the_checkpoints_stops_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(nn.Linear):
        def extra_repr(self) -> str:
            raise RuntimeError("cannot be printed")

    class Wandb:
        @property
        def run(self) -> object:
            raise OSError("no network")

    (tmp_path / "run").mkdir()
    (tmp_path / "run/logs").touch()
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    put = LocalStorage.put

    async def full(self: LocalStorage, key: str, *arguments: Any, **named: Any) -> Any:
        if key in ("wandb_info.json", "model_summary.txt", "hyperparameters.json"):
            raise StorageError(errno.ENOSPC, "no space left")
        return await put(self, key, *arguments, **named)

    monkeypatch.setattr(LocalStorage, "put", full)
    model = Odd(2, 2)
    with (
        Run.open(tmp_path / "run", config=tmp_path / "absent.yml", compat_names=["latest.ckpt"]) as run,
        AsyncCheckpointer(
            run, model=model, optimizer=torch.optim.SGD(model.parameters()), save=SavePolicy(every_steps=1)
        ) as ckpt,
    ):
        for step in (1, 2):
            ckpt.step(step)
        ckpt.wait()
        assert [info.step for info in ckpt.checkpoints()] == [1, 2]
    for words in ("absent.yml cannot be read", "no log of this training", "could not be written", "no network"):
        assert sum(words in record.getMessage() for record in caplog.records) == 1, words


def _goes_back(root: Path) -> tuple[Any, ...]:
    config = {"checkpoint": {"resume": 1}}
    with Run.open(root, config=config, logs=False) as run, AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
        state = ckpt.resume()
        assert state is not None
        ckpt.save(3).wait()
        return run.id, run.mode, run.chosen(), state.step


@pytest.mark.ranks
def test_b13_all_ranks_go_back_to_the_checkpoint_that_the_configuration_names(tmp_path: Path) -> None:
    run_ranks(_saves, 2, tmp_path / "run")
    first, second = run_ranks(_goes_back, 2, tmp_path / "run")
    assert first == second
    assert first[1:] == ("resume", "latest", 1)
    identity = json.loads((tmp_path / "run/identity.json").read_text())
    assert (identity["went_back"], len(identity["starts"])) == ("1", 2)


def _saves(root: Path) -> None:
    with Run.open(root, logs=False) as run, AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
        for step in (1, 2):
            ckpt.save(step).wait()


def _fails(root: Path) -> list[str]:
    """What a rank is told where rank 0 finds a file in place of a folder, and where it is interrupted."""

    async def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    if torch.distributed.get_rank() == 0:
        root.write_text("a file")
    said = [_error_of(root)]
    mock.patch.object(guard, "look", interrupted).start()
    return [*said, _error_of(root.parent / "other")]


def _error_of(root: Path) -> str:
    try:
        Run.open(root)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "opened"


@pytest.mark.ranks
def test_all_ranks_are_told_why_rank_0_could_not_open_the_run(tmp_path: Path) -> None:
    first, second = run_ranks(_fails, 2, tmp_path / "run")
    assert first[0].startswith("StorageDenied")
    assert first[1] == "KeyboardInterrupt: "
    told = f"{RunRefused.__name__}: rank 0 could not open the run: "
    assert second == [f"{told}{said}" for said in first]
