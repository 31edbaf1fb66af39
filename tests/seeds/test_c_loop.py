"""A trainer around a checkpointer, early stopping, and what differs between checkpoints (features C33, C35)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import asyncckpt
from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointNotFoundError, IncompatibleState, StorageError
from asyncckpt.training import CheckpointConfig, EarlyStopping

from .runs import INFINITY, NAN, Net, opened, steps

LOOP = Path(__file__).parents[2] / "examples" / "loop.py"


@pytest.fixture(scope="module")
def loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loop", LOOP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- C33 -----------------------------------------------------------------------------------------------------


def run(root: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(LOOP), str(root)],
        check=True, capture_output=True, text=True, timeout=120, cwd=LOOP.parents[1],
    )  # fmt: skip
    return done.stdout


def test_c33_the_example_trains_keeps_5_and_3_and_ends_with_the_best(tmp_path: Path) -> None:
    out = run(tmp_path / "run")
    with opened(tmp_path / "run", model=nn.Linear(8, 1), monitor=("loss", "min")) as ckpt:
        found, best = ckpt.checkpoints(), ckpt.best()
    assert best is not None
    assert out.startswith(f"Epoch: {best.epoch} | Step: {best.step} | ")
    assert best.tags == ("Linear_best",)
    assert {info.epoch for info in found} >= {6, 7, 8, 9, 10}
    assert len(found) <= 8
    assert all(info.step == 4 * (info.epoch or 0) for info in found)
    assert run(tmp_path / "run") == out  # nothing is left to train


def test_c33_a_trainer_counts_steps_saves_once_and_goes_on_after_a_restart(loop: ModuleType, tmp_path: Path) -> None:
    def trainer(net: Net, **config: Any) -> Any:
        made = CheckpointConfig(**config)
        return loop.Trainer(tmp_path / "run", net.model, net.optimizer, net.scheduler, made)

    config: dict[str, Any] = {
        "save_every_n_steps": 2,
        "save_every_n_epochs": 1,
        "save_on_best_metric": "val_loss",
        "tag_best_checkpoints": False,
    }
    one = trainer(net := Net(), **config)
    handles = []
    for epoch, values in enumerate([(0.9, 0.8), (0.95, 0.99)], 1):
        for value in values:
            net.optimizer.step()
            handles.append(one.step(torch.tensor(1.0), val_loss=value))
            if handles[-1]:
                handles[-1].wait()
        handles.append(one.epoch_end(epoch))
    # Steps 2 and 4 are multiples, and ends of epochs: each was saved once, and so the scheduler's step comes after it.
    assert [handle.step if handle else None for handle in handles] == [1, 2, None, None, 4, None]
    assert one.scheduler.last_epoch == 2
    assert one.load(best=True).step == 2
    one.ckpt.close()
    two = trainer(Net(1), **config)
    assert two.global_step == 4
    with two.ckpt:
        assert two.step(torch.tensor(1.0), val_loss=0.85) is None
        assert two.step(torch.tensor(1.0), val_loss=0.7).wait().step == 6
        assert steps(two.ckpt.checkpoints()) == [1, 2, 4, 6]


# -- C35: early stopping -------------------------------------------------------------------------------------


def counts(early: EarlyStopping, values: list[Any]) -> list[int]:
    found = []
    for value in values:
        early.update({"val_loss": value})
        found.append(early.count)
    return found


def test_c35_it_stops_after_so_many_without_improvement_and_begins_anew_with_one() -> None:
    early = EarlyStopping(("val_loss", "min"), patience=3)
    assert counts(early, [1.0, 0.9, 0.95, 0.9, 0.8, 0.85, 0.81]) == [0, 0, 1, 2, 0, 1, 2]
    assert not early.should_stop
    assert early.update({"val_loss": 0.8}) is False
    assert (early.should_stop, early.count, early.best) == (True, 3, 0.8)
    assert early.update({"val_loss": torch.tensor(0.7)}) is True
    assert (early.should_stop, early.count) == (False, 0)
    early.reset()
    assert (early.best, early.count) == (None, 0)


def test_c35_the_threshold_is_compared_with_the_old_best() -> None:
    """Each of these is 0.06 better than the one before: compared with that, the training would never improve."""
    early = EarlyStopping(("val_loss", "min"), patience=9, threshold=0.1)
    assert counts(early, [1.0, 0.94, 0.88, 0.82, 0.76]) == [0, 1, 0, 1, 0]
    assert early.best == 0.76
    assert counts(EarlyStopping(("val_loss", "max"), patience=9, threshold=0.5), [1.0, 1.5, 1.6]) == [0, 1, 0]


def test_c35_what_is_no_number_is_no_improvement_and_what_is_absent_counts_nothing() -> None:
    early = EarlyStopping(("val_loss", "min"), patience=9)
    assert counts(early, [NAN, INFINITY, INFINITY, 1.0, NAN, -INFINITY, -INFINITY]) == [1, 0, 1, 0, 1, 0, 1]
    assert early.update({"loss": 0.1}) is False
    assert early.count == 1


@pytest.mark.parametrize(
    "given", [{"patience": 0}, {"patience": 1, "threshold": -1}, {"patience": 1, "threshold": NAN}], ids=str
)
def test_c35_what_cannot_be_meant_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"patience=|threshold="):
        EarlyStopping(("val_loss", "min"), **given)
    with pytest.raises(ValueError, match="monitor="):
        EarlyStopping(("val_loss", "lowest"), patience=1)


def test_c35_the_count_goes_on_after_a_resume(tmp_path: Path) -> None:
    early = EarlyStopping(("val_loss", "min"), patience=3)
    counts(early, [0.5, 0.6, 0.7])
    with opened(tmp_path / "run", extra={"early": early}) as ckpt:
        ckpt.save(1).wait()
    again = EarlyStopping(("val_loss", "min"), patience=3)
    with opened(tmp_path / "run", extra={"early": again}) as ckpt:
        ckpt.resume()
    assert (again.best, again.count, again.should_stop) == (0.5, 2, False)
    assert again.update({"val_loss": 0.55}) is False
    assert again.should_stop
    for other in (("accuracy", "min"), ("val_loss", "max")):
        with (
            opened(tmp_path / "run", extra={"early": EarlyStopping(other, patience=3)}) as ckpt,
            pytest.raises(IncompatibleState, match=r"it counted 'val_loss' \(min\)"),
        ):
            ckpt.resume()


# -- C35: what differs ---------------------------------------------------------------------------------------


class Rate:
    def __init__(self, value: float) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "name": "cosine", "steps": [1, 2]}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three steps of two layers, of which the smaller changes in step 2 and is in step 3 what it was in step 1."""
    model = nn.ModuleDict({"a": nn.Linear(16, 16, bias=False), "b": nn.Linear(16, 48, bias=False)})
    rate = Rate(0.5)
    policy = asyncckpt.SavePolicy(exclude="rng")
    with opened(tmp_path / "run", model=model, extra={"rate": rate}, save=policy, monitor=("loss", "min")) as ckpt:
        for step, change in enumerate((0, 1, -1), 1):
            with torch.no_grad():
                model["a"].weight.copy_(torch.arange(256.0).reshape(16, 16) + max(change, 0))
            rate.value = 0.5 if step != 2 else 0.25
            ckpt.save(step, metrics={"loss": step}).wait()
    return tmp_path / "run"


def test_c35_a_diff_says_what_changed_and_how_much_is_the_same(root: Path) -> None:
    found = asyncckpt.diff(root, 1, 2)
    assert found.tensors.changed == ("model.a.weight",)
    assert (found.tensors.added, found.tensors.removed) == ((), ())
    assert found.values.changed == ("extra.rate.value",)
    assert (found.same, found.total, found.similarity, found.identical) == (3072, 4096, 0.75, False)
    assert (found.a.step, found.b.step) == (1, 2)
    same = asyncckpt.diff(root, "best")
    assert (same.a.step, same.b.step) == (1, 3)
    assert (same.similarity, same.identical, bool(same.tensors), bool(same.values)) == (1.0, True, False, False)


def test_c35_a_diff_of_other_models_says_what_came_and_what_went(root: Path, tmp_path: Path) -> None:
    other = nn.ModuleDict({"b": nn.Linear(16, 48, bias=False), "c": nn.Linear(16, 16, bias=False)})
    other["b"].weight.data.copy_(asyncckpt.load(root).state["model"]["b.weight"])
    with opened(tmp_path / "other", model=other, extra={"rate": Rate(0.5)}) as ckpt:
        ckpt.save(1).wait()
    found = asyncckpt.diff(root, 1, other=tmp_path / "other")
    assert (found.tensors.changed, found.tensors.added, found.tensors.removed) == (
        (), ("model.c.weight",), ("model.a.weight",)
    )  # fmt: skip
    assert found.values.changed == ()
    assert all(name.startswith("rng.") for name in found.values.added)
    assert (found.same, found.total) == (3072, 5120)


def test_c35_tied_weights_and_another_order_of_memory_are_no_difference(tmp_path: Path) -> None:
    embedding, head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
    images = torch.arange(96.0).reshape(2, 3, 4, 4)

    class Images(nn.Module):
        def __init__(self, order: torch.memory_format) -> None:
            super().__init__()
            self.register_buffer("images", images.contiguous(memory_format=order))

    for name, order in (("tied", torch.contiguous_format), ("apart", torch.channels_last)):
        model = nn.ModuleDict({"e": embedding, "h": head, "i": Images(order)})
        head.weight = embedding.weight if name == "tied" else nn.Parameter(embedding.weight.detach().clone())
        with opened(tmp_path / name, model=model, save=asyncckpt.SavePolicy(exclude="rng")) as ckpt:
            ckpt.save(1).wait()
    found = asyncckpt.diff(tmp_path / "tied", 1, other=tmp_path / "apart")
    assert not found.tensors
    assert found.similarity == 1.0


class Held:
    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_c35_the_same_bytes_in_another_form_are_a_difference_and_so_is_a_value_alone(tmp_path: Path) -> None:
    held = Held()
    with opened(tmp_path / "run", model=None, extra={"held": held}, save=asyncckpt.SavePolicy(exclude="rng")) as ckpt:
        for step, state in enumerate(
            (
                {"a": torch.zeros(2, 3), "b": torch.zeros(4)},
                {"a": torch.zeros(3, 2), "b": torch.zeros(4, dtype=torch.int32)},
                {"n": 1},
                {"n": 2},
            ),
            1,
        ):
            held.state = state
            ckpt.save(step).wait()
    forms, values = asyncckpt.diff(tmp_path / "run", 1, 2), asyncckpt.diff(tmp_path / "run", 3, 4)
    assert (forms.tensors.changed, forms.same, forms.identical) == (("extra.held.a", "extra.held.b"), 0, False)
    assert (values.values.changed, values.identical, values.similarity) == (("extra.held.n",), False, 1.0)


def test_c35_each_root_has_options_of_its_own(root: Path, tmp_path: Path) -> None:
    for options in ({"storage_options": {"key": "x"}}, {"other_options": {"key": "x"}}):
        with pytest.raises(StorageError, match="no storage_options"):
            asyncckpt.diff(root, 1, other=root, **options)


def test_c35_a_diff_reads_no_tensor_and_names_what_is_not_there(root: Path) -> None:
    for pack in root.rglob("*.safetensors"):
        pack.unlink()
    assert asyncckpt.diff(root, 1, "00000002").same == 3072
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint 9"):
        asyncckpt.diff(root, 9)


def test_c35_the_command_says_the_same_without_torch(root: Path) -> None:
    told = CliRunner().invoke(app, ["diff", f"{root}@1", "@2"], catch_exceptions=False)
    assert told.output.splitlines() == [
        "~ tensor model.a.weight",
        "~ value extra.rate.value",
        "00000001 (step 1) to 00000002 (step 2): 3.0 KiB of 4.0 KiB are the same (75.0%)",
    ]
    told = CliRunner().invoke(app, ["diff", f"{root}@best", str(root)], catch_exceptions=False)
    assert told.output == "00000001 and 00000003 hold the same state\n"
    assert CliRunner().invoke(app, ["diff", f"{root}@1", "@9"]).exit_code == 3
    script = "import sys; sys.modules['torch'] = None\nfrom asyncckpt.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", script, "diff", f"{root}@1", f"{root}@2", "--json"],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found == {
        "schema": 1,
        "a": "00000001",
        "b": "00000002",
        "identical": False,
        "similarity": 0.75,
        "same": 3072,
        "total": 4096,
        "tensors": {"changed": ["model.a.weight"], "added": [], "removed": []},
        "values": {"changed": ["extra.rate.value"], "added": [], "removed": []},
    }
