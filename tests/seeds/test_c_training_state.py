"""TrainingState: its fields, its summary, its round trips (features C28 to C32, and D6's history and configuration)."""

from __future__ import annotations

import itertools
import json
import time
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asyncckpt
from asyncckpt import TrainingState
from asyncckpt.errors import CheckpointCorruptError, IncompatibleState, ObjectNotFound, UnsupportedState
from asyncckpt.format.sealed import seal
from asyncckpt.state import training_state

from .runs import Net, opened

FIELDS = (
    "epoch learning_rate loss metrics optimizer_state scheduler_state random_state timestamp batch_size "
    "gradient_accumulation_steps max_epochs max_steps model_name dataset_name experiment_name notes"
)
ABOUT: dict[str, Any] = {
    "batch_size": 32,
    "gradient_accumulation_steps": 4,
    "max_epochs": 10,
    "max_steps": 0,
    "model_name": "MyModel",
    "dataset_name": "größe",
    "experiment_name": "experiment_001",
    "notes": "first\ntry",
}


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same to the last bit and type."""
    if isinstance(a, torch.Tensor):
        same = type(a) is type(b) and (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)
        return same and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    if isinstance(a, dict):
        return type(a) is type(b) and [*a] == [*b] and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or repr(a) == repr(b) == "nan")


def test_c28_every_field_is_there_and_nothing_is_shared_between_two() -> None:
    assert [name for name in FIELDS.split() if not hasattr(TrainingState(), name)] == []
    first, second = TrainingState(step=3), TrainingState()
    first.metrics["loss"] = 0.5
    assert second.metrics == {}
    assert (first.global_step, second.global_step) == (3, 0)


def test_c28_the_time_is_that_of_each_instance() -> None:
    before = time.time()
    first = TrainingState()
    between = time.time()
    assert before <= first.timestamp <= between <= TrainingState().timestamp <= time.time()


def test_c28_what_a_user_says_comes_back_from_a_resume(tmp_path: Path) -> None:
    net = Net()
    net.step()
    with opened(tmp_path / "run", **net.parts, extra={"about": TrainingState(**ABOUT)}) as ckpt:
        assert ckpt.resume() is None
        ckpt.save(5, epoch=2, metrics={"loss": 0.25}).wait()
    about = TrainingState(notes="another")
    with opened(tmp_path / "run", **Net(1).parts, extra={"about": about}) as ckpt:
        state = ckpt.resume()
    assert state is not None
    assert {name: getattr(state, name) for name in ABOUT} == ABOUT
    assert {name: getattr(about, name) for name in ABOUT} == ABOUT
    assert (state.step, state.epoch, state.loss, state.learning_rate) == (5, 2, 0.25, 0.1)
    whole = asyncckpt.load(tmp_path / "run").training
    assert {name: getattr(whole, name) for name in ABOUT} == ABOUT
    assert equal(whole.optimizer_state, net.optimizer.state_dict())
    assert equal(whole.scheduler_state["last_epoch"], 1)
    assert {"python", "torch"} <= whole.random_state.keys()
    about.load_state_dict(TrainingState(notes="third").state_dict())
    assert (about.notes, about.max_steps, about.model_name) == ("third", None, None), "what was not said is not known"


def test_c28_an_extra_that_was_something_else_is_refused_by_name(tmp_path: Path) -> None:
    with opened(tmp_path / "run", extra={"about": Net().optimizer}) as ckpt:
        ckpt.save(1).wait()
    with (
        opened(tmp_path / "run", extra={"about": TrainingState()}) as ckpt,
        pytest.raises(IncompatibleState, match=r"extra\.about"),
    ):
        ckpt.resume()


# -- D6 ------------------------------------------------------------------------------------------------------


class Kind(Enum):
    ADAM = "adam"


def test_d6_losses_and_configuration_are_in_every_checkpoint(tmp_path: Path) -> None:
    losses = [1.5, float("nan"), 0.1, float("inf"), -0.0]
    config = {
        "lr": 1e-3, "path": Path("/data"), "kind": Kind.ADAM, "rate": np.float32(0.5), "f": len, "api_key": "s3cr3t",
    }  # fmt: skip
    about = TrainingState(loss_history=losses, config=config)
    with opened(tmp_path / "run", extra={"about": about}) as ckpt:
        first = ckpt.save(1)
        losses.append(0.25)  # the checkpoint has what there was
        first.wait()
        ckpt.save(2).wait()
    assert config["api_key"] == "s3cr3t"
    found = asyncckpt.load(tmp_path / "run", 1).training
    assert equal(found.loss_history, [1.5, float("nan"), 0.1, float("inf"), -0.0])
    assert found.config == {
        "lr": 1e-3, "path": "/data", "kind": "adam", "rate": 0.5, "f": "<builtins.builtin_function_or_method>",
        "api_key": "***",
    }  # fmt: skip
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]
    again, other = [9.0], {"lr": 2e-3, "api_key": "s3cr3t"}
    about = TrainingState(loss_history=again, config=other)
    with opened(tmp_path / "run", extra={"about": about}) as ckpt:
        state = ckpt.resume()
    assert state is not None
    assert equal(state.loss_history, losses)
    assert equal(again, losses)  # the list that a loop appends to
    assert state.config == found.config
    assert about.config is other  # what this start was told
    assert other["api_key"] == "s3cr3t"
    assert state.unknown == {}


def test_d6_losses_take_no_new_plan_at_each_save_and_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(training_state, "LONGEST", 1 << 11)
    about = TrainingState()
    rooms = []
    for size in (1, 2, 1024, 1025, 2048, 2049, 5000):
        about.loss_history[:] = map(float, range(size))
        said = about.state_dict()["training_state"]["loss_history"]
        rooms.append(said["values"])
        assert said["count"] == min(size, 2048)
        assert said["values"][: said["count"]].tolist() == about.loss_history[-2048:]
    assert [len(room) for room in rooms] == [1024] * 3 + [2048] * 4
    same = [after.data_ptr() == before.data_ptr() for before, after in itertools.pairwise(rooms)]
    assert same == [True, True, False, True, True, True]
    assert caplog.text.count("checkpoints hold the newest 2048 losses") == 1
    with opened(tmp_path / "run", extra={"about": about}) as ckpt:
        ckpt.save(1).wait()
        assert ckpt.restore().loss_history == [float(at) for at in range(5000 - 2048, 5000)]
    assert TrainingState.from_dict(about.to_dict()).loss_history == about.loss_history  # not here: nothing is lost


def test_d6_a_loss_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    about = TrainingState(loss_history=[0.5, "low"])
    with opened(tmp_path / "run", extra={"about": about}) as ckpt:
        with pytest.raises(TypeError, match=r"loss_history has a str \(1 of the newest\): append numbers"):
            ckpt.save(1)
        about.loss_history[1] = 0.25
        ckpt.save(1).wait()


def test_d6_a_file_and_a_dict_of_losses_and_configuration_are_lossless(tmp_path: Path) -> None:
    config = {"path": Path("/data"), "kind": Kind.ADAM, "rate": np.float32(0.5), "betas": (0.9, 0.999), "nan": -0.0}
    metrics = {"val": 0.5}
    state = TrainingState(
        metrics=metrics, loss_history=[1.0, float("nan"), float("-inf")], config=config, code_version="a3f2b1c4"
    )
    said = state.to_dict()
    copied = TrainingState.from_dict(said)
    for lists, of in ((copied.loss_history, copied.config), (said["loss_history"], said["config"])):
        lists.append(2.0)
        of["more"] = 1
    said["metrics"]["more"] = copied.metrics["other"] = 1.0
    assert (len(state.loss_history), state.metrics) == (3, {"val": 0.5})
    assert (len(copied.loss_history), copied.metrics.keys()) == (4, {"val", "other"})
    assert "more" not in config
    state.save(tmp_path / "state.json")
    assert equal(TrainingState.load(tmp_path / "state.json").to_dict(), state.to_dict())


def test_d6_a_state_says_which_code_saved_it(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as ckpt:
        info = ckpt.save(1).wait()
        assert ckpt.restore().code_version == info.code_version


def test_c29_metrics_are_merged() -> None:
    state = TrainingState(metrics={"accuracy": 0.5, "loss": 1.0})
    state.update_metrics(accuracy=0.95, f1=0.92)
    state.update_metrics()
    assert state.metrics == {"accuracy": 0.95, "loss": 1.0, "f1": 0.92}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"epoch": 5, "step": 1000, "learning_rate": 1e-4, "loss": 0.1234, "metrics": {"accuracy": 0.95}},
            "Epoch: 5 | Step: 1000 | Learning Rate: 1.00e-04 | Loss: 0.1234 | accuracy: 0.9500",
        ),
        (
            {"epoch": 0, "step": 0, "learning_rate": 0.1, "loss": 2.0},
            "Epoch: 0 | Step: 0 | Learning Rate: 1.00e-01 | Loss: 2.0000",
        ),
        (
            {"metrics": {"b": 2, "a": torch.tensor(0.5), "c": None, "d": "low", "e": float("nan")}},
            "Epoch: - | Step: 0 | Learning Rate: - | Loss: - | a: 0.5000 | b: 2.0000 | c: - | d: low | e: nan",
        ),
        (
            {"epoch": 1, "step": 2, "learning_rate": 1.0, "loss": 0.5, "metrics": {"loss": 0.5}},
            "Epoch: 1 | Step: 2 | Learning Rate: 1.00e+00 | Loss: 0.5000",
        ),
        (
            {"epoch": 1, "step": 2, "loss": 0.5, "metrics": {"loss": 0.25}},
            "Epoch: 1 | Step: 2 | Learning Rate: - | Loss: 0.5000 | loss: 0.2500",
        ),
    ],
    ids=["documented", "no metrics", "odd metrics", "the loss once", "another loss"],
)
def test_c30_the_summary_is_one_exact_line(given: dict[str, Any], expected: str) -> None:
    assert TrainingState(**given).format_summary() == expected


def whole() -> TrainingState:
    net = Net()
    net.step()
    return TrainingState(
        step=7,
        epoch=2,
        metrics={"loss": float("nan"), "val": -0.0},
        learning_rate=0.1,
        loss=float("inf"),
        optimizer_state=net.optimizer.state_dict(),
        scheduler_state=net.scheduler.state_dict(),
        random_state={"torch": torch.get_rng_state(), "python": (3, tuple(range(5)), None)},
        **ABOUT,
    )


def test_c31_a_file_and_a_dict_are_lossless(tmp_path: Path) -> None:
    state = whole()
    assert equal(TrainingState.from_dict(state.to_dict()).to_dict(), state.to_dict())
    state.save(tmp_path / "folder" / "state.json")
    state.save(str(tmp_path / "folder" / "state.json"))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["state.json"]
    assert json.loads((tmp_path / "folder" / "state.json").read_bytes())["state"]
    found = TrainingState.load(tmp_path / "folder" / "state.json")
    assert equal(found.to_dict(), state.to_dict())
    assert found.timestamp == state.timestamp


def test_c31_what_a_newer_version_knows_is_kept_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {**TrainingState(step=3).to_dict(), "colour": "red", "weights_seen": torch.ones(2)}
    state = TrainingState.from_dict(data)
    assert "keeps: colour, weights_seen" in caplog.text
    state.save(tmp_path / "state.json")
    assert equal(TrainingState.load(tmp_path / "state.json").to_dict(), state.to_dict())
    assert state.to_dict()["colour"] == "red"
    with opened(tmp_path / "run", extra={"about": state}) as ckpt:
        ckpt.save(1).wait()
        state.unknown.clear()
        assert ckpt.restore().unknown["colour"] == "red"


def test_c31_dicts_of_others_are_understood() -> None:
    made = TrainingState.from_dict({"epoch": 5, "global_step": 1000, "timestamp": "2026-11-29T10:00:00+00:00"})
    assert (made.step, made.epoch, made.timestamp) == (1000, 5, datetime(2026, 11, 29, 10, tzinfo=UTC).timestamp())
    assert made.unknown == {}
    assert TrainingState.from_dict({"timestamp": datetime(2026, 11, 29, 10, tzinfo=UTC)}).timestamp == made.timestamp
    with pytest.raises(ValueError, match="step is 1 and global_step 2"):
        TrainingState.from_dict({"step": 1, "global_step": 2})


def test_c31_a_damaged_or_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with pytest.raises(ObjectNotFound, match=r"state\.json"):
        TrainingState.load(path)
    whole().save(path)
    data = bytearray(path.read_bytes())
    others = (seal({"state": [1], "tensors": []}), seal({"step": 1}))  # whole, and something else
    for damaged in (b"", bytes(data[: len(data) // 2]), bytes(data).replace(b'"A', b'"B', 1), b"{}", *others):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointCorruptError, match=r"state\.json"):
            TrainingState.load(path)


def test_c31_what_cannot_be_held_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    TrainingState(step=1).save(path)
    for bad, name in ((object(), "optimizer_state.bad"), (torch.eye(2).to_sparse(), "optimizer_state.bad")):
        with pytest.raises(UnsupportedState, match=name):
            TrainingState(step=2, optimizer_state={"bad": bad}).save(path)
    assert TrainingState.load(path).step == 1


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(3.5),
        torch.empty(0, 3),
        torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        torch.arange(12).reshape(3, 4).t(),
        torch.tensor([True, False]),
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,  # of one element, and so dense: its memory says 2
        torch.nn.Parameter(torch.ones(2)),
        torch.tensor([float("nan"), -0.0, float("inf")], dtype=torch.float16),
        torch.zeros(2, dtype=torch.float8_e4m3fn),
        {0: {"step": torch.tensor(1.0)}, "0": None, (1, 2): [torch.ones(1), (2, None, [3])]},
        (0.9, 0.999),
        [None, {}, [], ()],
        2**70,
    ],
    ids=lambda value: f"{value.dtype}{[*value.shape]}" if isinstance(value, torch.Tensor) else repr(value)[:20],
)
def test_c32_tensors_stay_tensors_and_keys_and_tuples_what_they_are(tmp_path: Path, value: Any) -> None:
    """The original made strings of integer keys, lists of tuples, float64 of float32, and failed at bfloat16."""
    state = TrainingState(optimizer_state={"value": value})
    state.save(tmp_path / "state.json")
    found = TrainingState.load(tmp_path / "state.json").optimizer_state["value"]
    expected = value
    if isinstance(value, torch.Tensor):
        expected = value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    assert equal(found, expected)


def test_c32_adamw_goes_on_from_a_file_as_if_nothing_had_been(tmp_path: Path) -> None:
    net, other = Net(), Net()
    for _ in range(3):
        net.step()
    state = TrainingState(
        optimizer_state=net.optimizer.state_dict(),
        scheduler_state=net.scheduler.state_dict(),
        random_state={"torch": torch.get_rng_state(), "model": dict(net.model.state_dict())},
    )
    state.save(tmp_path / "state.json")
    expected = [net.step() for _ in range(5)]
    found = TrainingState.load(tmp_path / "state.json")
    other.model.load_state_dict(found.random_state["model"])  # BatchNorm's buffers, which the original lost, too
    other.optimizer.load_state_dict(found.optimizer_state)
    other.scheduler.load_state_dict(found.scheduler_state)
    torch.set_rng_state(found.random_state["torch"])
    assert [other.step() for _ in range(5)] == expected


def test_c32_a_resume_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    net, other = Net(), Net(1)
    for _ in range(3):
        net.step()
    with opened(tmp_path / "run", **net.parts) as ckpt:
        ckpt.save(3).wait()
    expected = [net.step() for _ in range(5)]
    with opened(tmp_path / "run", **other.parts) as ckpt:
        ckpt.resume()
        assert [other.step() for _ in range(5)] == expected
