"""What ``checkpoint.resume`` in a configuration means (features B13, X10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, SavePolicy, load
from asyncckpt.errors import CheckpointDirectoryExistsError, CheckpointNotFoundError, IncompatibleState
from asyncckpt.run.reference import Reference, reference

from .conftest import Place

NAMES = ("checkpoint-epoch{epoch}-step{step}", "best_checkpoint")


def trained(place: Place, *steps: int, go_on: bool = True, **given: Any) -> int:
    """A start that goes on, or begins, and saves at `steps`; returns the step that it went on from, or 0."""
    with place.open(compat_names=NAMES if "://" not in place.root else (), **given) as run:
        ckpt = AsyncCheckpointer(run, model=nn.Linear(2, 2), monitor=("loss", "min"))
        with ckpt:
            state = ckpt.resume() if go_on else None
            for step in steps:
                ckpt.save(step, epoch=step // 100, metrics={"loss": step}).wait()
    return state.step if state else 0


def resuming(value: Any) -> dict[str, Any]:
    return {"config": {"checkpoint": {"resume": value}}}


@pytest.mark.parametrize("value", [True, "true", "latest", "auto"])
def test_b13_a_configuration_that_says_so_goes_on_with_the_run(somewhere: Place, value: Any) -> None:
    trained(somewhere, 100, 200)
    assert trained(somewhere, 300, **resuming(value)) == 200
    assert trained(somewhere, **resuming(value)) == 300


@pytest.mark.parametrize("value", [None, False, ""])
def test_b13_one_that_does_not_say_so_is_refused(folder: Place, value: Any) -> None:
    trained(folder, 100)
    with pytest.raises(CheckpointDirectoryExistsError):
        folder.open(**resuming(value))


def test_b13_the_roots_own_path_is_its_latest_checkpoint(somewhere: Place) -> None:
    trained(somewhere, 100, 200)
    assert trained(somewhere, **resuming(somewhere.root)) == 200
    assert trained(somewhere, **resuming(somewhere.root + "/")) == 200


def test_b13_the_path_of_a_checkpoint_is_that_one(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(folder, 100, 200, 300)
    monkeypatch.chdir(Path(folder.root).parent)
    assert trained(folder, **resuming("./run/checkpoint-epoch1-step100")) == 100
    data = next(key for key in folder.names() if "step-200" in key).split("/")[1]
    assert trained(folder, **resuming(f"{folder.root}/data/{data}")) == 200
    assert trained(folder, **resuming(f"{folder.root}/best_checkpoint")) == 100
    assert trained(folder, **resuming(300)) == 300


def test_b13_in_a_bucket_a_checkpoint_has_a_path_too(somewhere: Place) -> None:
    trained(somewhere, 100, 200)
    assert trained(somewhere, **resuming(f"{somewhere.root}/checkpoint-epoch1-step100")) == 100
    assert trained(somewhere, 300, **resuming(f"{somewhere.root}@00000002")) == 200


def test_b13_steps_go_on_and_the_log_says_so(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "run"))
    assert trained(place, 100, logs=True) == 0
    assert trained(place, 101, logs=True, **resuming("latest")) == 100
    names = [path.name for path in (tmp_path / "run/logs").iterdir()]
    assert sum(name.startswith("training_resume_1_") for name in names) == 1
    assert load(place.root).info.step == 101


def test_b13_step_epoch_and_best_go_on(folder: Place) -> None:
    """The original's trainer began anew from infinity (R23)."""

    def start(*losses: float, by_hand: int | None = None, **given: Any) -> tuple[Any, list[int]]:
        with (
            folder.open(**given) as run,
            AsyncCheckpointer(
                run, model=nn.Linear(2, 2), monitor=("loss", "min"), save=SavePolicy(on_best=True)
            ) as ckpt,
        ):
            state = ckpt.resume()
            for step, loss in enumerate(losses, state.step + 1 if state else 1):
                if (handle := ckpt.step(step, epoch=10 * step, metrics={"loss": loss})) is not None:
                    handle.wait()
            if by_hand is not None:
                ckpt.save(by_hand, epoch=10 * by_hand, metrics={"loss": 0.9}).wait()  # the latest need not be the best
            ckpt.wait()
            return state and (state.step, state.epoch, state.metrics), [info.step for info in ckpt.checkpoints()]

    assert start(0.5, 0.3, by_hand=3) == (None, [1, 2, 3])
    assert start(0.4, 0.2, **resuming("latest")) == ((3, 30, {"loss": 0.9}), [1, 2, 3, 5])


def test_b13_auto_begins_where_there_is_nothing(folder: Place) -> None:
    with folder.open(**resuming("auto")) as run:
        assert (run.mode, run.is_resumed) == ("new", False)


def test_b13_a_path_that_is_not_there_is_an_error_before_anything_is_made(folder: Place, tmp_path: Path) -> None:
    for value in (True, folder.root, f"{folder.root}/checkpoint-epoch0-step1", 100, str(tmp_path / "elsewhere")):
        with pytest.raises(CheckpointNotFoundError):
            folder.open(**resuming(value))
        assert not Path(folder.root).exists()
    trained(folder, 100)
    before = folder.read("identity.json")
    for value in (200, f"{folder.root}/checkpoint-epoch0-step7", f"{folder.root}@00000009"):
        with pytest.raises(CheckpointNotFoundError):
            folder.open(**resuming(value))
        assert folder.read("identity.json") == before


@pytest.mark.parametrize("value", [[1], 1.5, {"a": 1}])
def test_b13_what_names_no_checkpoint_is_refused(folder: Place, value: Any) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.resume"):
        folder.open(**resuming(value))


def test_b13_a_file_in_the_root_is_no_checkpoint(folder: Place) -> None:
    trained(folder, 100)
    with pytest.raises(ValueError, match="names no checkpoint of that run"):
        folder.open(**resuming(f"{folder.root}/config.json"))


def test_b13_to_go_on_and_to_overwrite_contradict_each_other(folder: Place) -> None:
    with pytest.raises(ValueError, match="contradict"):
        folder.open(mode="overwrite", **resuming(True))


def test_x10_a_restart_with_the_same_configuration_goes_on_and_not_back_again(somewhere: Place) -> None:
    trained(somewhere, 100, 200)
    back = resuming(f"{somewhere.root}/checkpoint-epoch1-step100")
    assert trained(somewhere, **back) == 100  # and dies before it saves
    assert trained(somewhere, 150, **back) == 100
    assert trained(somewhere, 160, **back) == 150
    assert trained(somewhere, **resuming(100)) == 100  # another word for it is another wish


def test_x10_a_start_that_died_before_it_went_back_has_not(folder: Place) -> None:
    trained(folder, 100, 200)
    folder.open(**resuming(100)).close()
    assert trained(folder, 300, **resuming(100)) == 100
    assert trained(folder, **resuming(100)) == 300


def test_x10_which_is_given_to_resume_comes_first(folder: Place) -> None:
    trained(folder, 100, 200, 300)
    with folder.open(**resuming(100)) as run, AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
        state = ckpt.resume(which=200)
        assert state is not None
        assert state.step == 200


def test_x10_another_root_is_where_a_new_run_begins_and_its_own_checkpoints_come_first(tmp_path: Path) -> None:
    old, new = Place(str(tmp_path / "old")), Place(str(tmp_path / "new"))
    trained(old, 100, 200)
    begin = resuming(f"{old.root}@best")
    with new.open(**begin) as run:
        assert (run.mode, run.start_from) == ("new", (old.root, "best"))
        assert run.start_from is not None
        weights = load(*run.start_from)
        assert weights.info.step == 100
        model = nn.Linear(2, 2)
        model.load_state_dict(weights.state["model"])
        with AsyncCheckpointer(run, model=model) as ckpt:
            assert ckpt.resume() is None
            ckpt.save(1)
    with new.open(**begin) as run:
        assert (run.mode, run.start_from) == ("resume", None)
        with AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
            state = ckpt.resume()
            assert state is not None
            assert state.step == 1
    assert json.loads(old.read("identity.json") or b"")["starts"][-1]["mode"] == "new"  # it was only read


def test_x10_a_run_in_a_bucket_begins_from_a_folder(somewhere: Place, tmp_path: Path) -> None:
    old = Place(str(tmp_path / "old"))
    trained(old, 100)
    with somewhere.open(**resuming(old.root)) as run:
        assert run.start_from == (old.root, "latest")


def test_x10_a_run_that_died_before_its_first_checkpoint_still_begins_from_there(tmp_path: Path) -> None:
    old, new = Place(str(tmp_path / "old")), Place(str(tmp_path / "new"))
    trained(old, 100)
    new.open(**resuming(old.root)).close()
    with new.open(**resuming(old.root)) as run:
        assert (run.mode, run.start_from) == ("resume", (old.root, "latest"))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("latest", Reference("latest")),
        ("best", Reference("best", "best")),
        ("runs/a", Reference("runs/a")),
        ("runs/a/", Reference("runs/a/")),
        ("runs/a/checkpoint_step_25.pt", Reference("runs/a/checkpoint_step_25.pt", 25)),
        ("runs/a/checkpoint_latest.pt", Reference("runs/a/checkpoint_latest.pt")),
        ("runs/a/latest.ckpt", Reference("runs/a/latest.ckpt")),
        ("runs/a/checkpoints/best", Reference("runs/a/checkpoints/best", "best")),
        ("runs/a@final", Reference("runs/a@final", "final")),
        ("runs/b", Reference("runs/b", root="runs/b")),
        ("runs/ab", Reference("runs/ab", root="runs/ab")),
        ("runs/b@7", Reference("runs/b@7", "7", "runs/b")),
        ("s3://bucket/b", Reference("s3://bucket/b", root="s3://bucket/b")),
    ],
)
def test_b13_names_of_checkpoints(text: str, meant: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert reference(text, str(tmp_path / "runs/a")) == meant


def test_b13_a_link_to_the_root_is_the_root(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert reference(str(tmp_path / "link"), str(tmp_path / "real")) == Reference(str(tmp_path / "link"))


def test_b13_weights_alone_are_restored_where_the_rest_was_changed(folder: Place) -> None:
    """Another optimizer goes on with the run, whose step, epoch and weights stay; and other draws where it shall."""
    model = nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters(), lr=0.25)
    with folder.open() as run, AsyncCheckpointer(run, model=model, optimizer=adam) as ckpt:
        model(torch.ones(1, 2)).sum().backward()
        adam.step()
        ckpt.save(100, epoch=1).wait()
    with folder.open(mode="resume") as run:
        other = nn.Linear(2, 2)
        sgd = torch.optim.SGD(other.parameters(), lr=0.5)
        with AsyncCheckpointer(run, model=other, optimizer=sgd) as ckpt:
            with pytest.raises(IncompatibleState, match="there is no part 'optimiser'"):
                ckpt.resume(exclude="optimiser")
            torch.manual_seed(7)
            drawn = torch.rand(1)
            torch.manual_seed(7)
            state = ckpt.resume(exclude=("optimizer", "rng"))
            assert torch.equal(torch.rand(1), drawn)
            assert state is not None
            assert (state.step, state.epoch) == (100, 1)
            assert torch.equal(other.weight, model.weight)
            assert (sgd.param_groups[0]["lr"], dict(sgd.state)) == (0.5, {})
            ckpt.save(101).wait()
            with torch.no_grad():
                other.weight.zero_()
            assert ckpt.restore(100, only="model").step == 100
            assert torch.equal(other.weight, model.weight)
    rates = [load(folder.root, step).state["optimizer"]["param_groups"][0]["lr"] for step in (100, 101)]
    assert rates == [0.25, 0.5]
