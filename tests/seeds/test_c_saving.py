"""When a checkpoint is saved, what goes into it, and what it says of itself (C1 to C5, C11 to C16, C20, C21)."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asyncckpt
from asyncckpt import SavePolicy
from asyncckpt.errors import IncompatibleState
from asyncckpt.events import Durable
from asyncckpt.format.sealed import sealed_digest
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.training import Callbacks, CheckpointConfig
from tests.checkpointer.trainings import Recorder

from .runs import INFINITY, NAN, Net, due, opened, saved, steps

LOSS = ("val_loss", "min")

# -- C1 to C5: when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "expected"), [(None, []), (1, [*range(1, 11)]), (3, [3, 6, 9]), (10, [10]), (11, [])]
)
def test_c1_steps_that_are_multiples_are_saved_and_step_0_is_none(
    tmp_path: Path, every: int | None, expected: list[int]
) -> None:
    with opened(tmp_path / "run", save=CheckpointConfig(save_every_n_steps=every).save_policy()) as ckpt:
        assert due(ckpt, [None] * 11, first=0) == expected


@pytest.mark.parametrize("option", ["save_every_n_steps", "save_every_n_epochs"])
@pytest.mark.parametrize("value", [0, -1])
def test_c1_an_interval_that_is_none_is_refused_at_once(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"={value}.*positive number"):
        CheckpointConfig(**{option: value})


def test_c2_an_epoch_is_saved_once_at_its_end_and_epochs_count_from_1(tmp_path: Path) -> None:
    with opened(tmp_path / "run", save=CheckpointConfig(save_every_n_epochs=3).save_policy()) as ckpt:
        assert [ckpt.epoch_end(0, step=step) for step in (0, 1)] == [None, None]
        found = []
        for epoch in range(1, 7):
            for step in (2 * epoch - 1, 2 * epoch):  # the original saved at both, in epochs 0, 3 and 6
                assert ckpt.step(step, epoch=epoch) is None
            if handle := ckpt.epoch_end(epoch):
                found.append(handle.wait())
            assert ckpt.epoch_end(epoch) is None
        assert [(info.epoch, info.step) for info in found] == [(3, 6), (6, 12)]
        assert steps(ckpt.checkpoints()) == [6, 12]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0, 4.0, 4.5, 3.0], [1, 2, 4]),
        ([NAN, 5.0, NAN, 6.0, 4.0], [2, 5]),  # the original never saved again after a first NaN
        ([2.0, 2.0, 2.0], [1]),
        ([INFINITY, INFINITY, 1.0, -INFINITY, -INFINITY], [1, 3, 4]),
        ([None, 3.0, None, 2.0], [2, 4]),
        ([torch.tensor(3.0), torch.tensor([[2.0]]), 1, np.float32(0.5), True], [1, 2, 3, 4]),
    ],
    ids=["falling", "NaN first", "equal", "infinities", "absent", "tensors and integers"],
)
def test_c3_a_metric_that_improves_is_saved(tmp_path: Path, values: list[Any], expected: list[int]) -> None:
    config = CheckpointConfig(save_on_best_metric="val_loss")
    with opened(tmp_path / "run", save=config.save_policy(), monitor=config.monitor) as ckpt:
        assert due(ckpt, values) == expected


def test_c3_what_was_best_before_a_restart_still_is(tmp_path: Path) -> None:
    config = CheckpointConfig(save_on_best_metric="val_loss")
    options: dict[str, Any] = {"save": config.save_policy(), "monitor": config.monitor}
    with opened(tmp_path / "run", **options) as ckpt:
        assert due(ckpt, [0.5]) == [1]
        ckpt.save(2, metrics={"val_loss": 0.9}).wait()  # the latest is not the best
    with opened(tmp_path / "run", **options) as ckpt:
        ckpt.resume()
        assert due(ckpt, [0.6, 0.5, 0.4], first=3) == [5]


def test_c3_step_0_is_no_checkpoint_and_so_no_best_whatever_is_measured_there(tmp_path: Path) -> None:
    """An evaluation before the training: what it found is not saved, and does not stand in the way of what is."""
    config = CheckpointConfig(save_on_best_metric="val_loss", save_every_n_epochs=1)
    with opened(tmp_path / "run", save=config.save_policy(), monitor=config.monitor) as ckpt:
        assert ckpt.epoch_end(0, step=0, metrics={"val_loss": 0.1}) is None
        assert ckpt.epoch_end(1, step=0, metrics={"val_loss": 0.1}) is None
        assert due(ckpt, [0.2, 0.6, 0.7, 0.5], first=0) == [1, 3]
        assert ckpt.save(0).wait().step == 0, "unless it is asked for"


@pytest.mark.parametrize(
    ("minimize", "saves", "best", "kept"), [(True, [1, 3], 3, [3, 4]), (False, [1, 2, 4], 4, [2, 4])]
)
def test_c4_the_direction_decides_the_trigger_the_best_and_what_is_kept(
    tmp_path: Path, minimize: bool, saves: list[int], best: int, kept: list[int]
) -> None:
    values = [0.5, 0.7, 0.1, 0.8] if not minimize else [0.5, 0.7, 0.1, 0.3]
    config = CheckpointConfig(save_on_best_metric="accuracy", minimize_metric=minimize, keep_best_n_checkpoints=2)
    with opened(tmp_path / "when", save=config.save_policy(), monitor=config.monitor) as ckpt:
        assert due(ckpt, values, "accuracy") == saves
    with opened(tmp_path / "what", keep=config.retention_policy(), monitor=config.monitor) as ckpt:
        saved(ckpt, values, "accuracy")
        found = ckpt.best()
        assert found is not None
        assert found.step == best
        assert steps(ckpt.checkpoints()) == kept


def test_c5_any_condition_saves_and_several_make_one_save(tmp_path: Path) -> None:
    config = CheckpointConfig(save_every_n_steps=3, save_every_n_epochs=3, save_on_best_metric="val_loss")
    with opened(tmp_path / "run", save=config.save_policy(), monitor=config.monitor) as ckpt:
        # Step 3 is a multiple although the metric is there and has not improved: the original looked no further.
        assert due(ckpt, [0.9, 0.8, 0.9, 0.9, 0.85, 0.1]) == [1, 2, 3, 6]
        assert ckpt.epoch_end(3, metrics={"val_loss": 0.1}) is None
        assert due(ckpt, [0.9], first=7) == []
        handle = ckpt.epoch_end(6)
        assert handle is not None
        assert handle.wait().step == 7
        assert due(ckpt, [0.5], first=8) == []
        handle = ckpt.epoch_end(7, metrics={"val_loss": 0.05})  # no multiple, and the best
        assert handle is not None
        assert handle.wait().step == 8
        assert steps(ckpt.checkpoints()) == [1, 2, 3, 6, 7, 8]


# -- C11 to C14: what of -------------------------------------------------------------------------------------


def left_out(tmp_path: Path, option: str, part: str) -> dict[str, int]:
    """Save with everything in ``whole``, and without `part` in ``without``: all else is there."""
    sizes = {}
    for name, config in (("whole", CheckpointConfig()), ("without", CheckpointConfig(**{option: False}))):
        net = Net()
        net.step()
        with opened(tmp_path / name, **net.parts, save=config.save_policy()) as ckpt:
            sizes[name] = ckpt.save(1).wait().size
        held = asyncckpt.load(tmp_path / name).state
        assert (part in held) is (name == "whole")
        assert {"model", "optimizer", "scheduler", "rng"} - held.keys() <= {part}
    assert sizes["without"] <= sizes["whole"]
    return sizes


def test_c11_without_the_optimizer_files_are_smaller_and_a_restore_leaves_it_alone(tmp_path: Path) -> None:
    sizes = left_out(tmp_path, "save_optimizer_state", "optimizer")
    assert sizes["without"] < 0.5 * sizes["whole"]
    net = Net(seed=1)
    net.step()
    before = [moment["exp_avg"].clone() for moment in net.optimizer.state.values()]
    for name in ("without", "whole"):  # also where the checkpoint has one
        policy = CheckpointConfig(save_optimizer_state=False).save_policy()
        with opened(tmp_path / name, **net.parts, save=policy) as ckpt:
            assert ckpt.resume() is not None
        after = [moment["exp_avg"] for moment in net.optimizer.state.values()]
        assert all(map(torch.equal, before, after))
        assert torch.equal(net.model[0].weight, asyncckpt.load(tmp_path / name).state["model"]["0.weight"])
    with (
        opened(tmp_path / "without", **net.parts) as ckpt,
        pytest.raises(IncompatibleState, match="holds no optimizer"),
    ):
        ckpt.restore()


def test_c11_an_optimizer_that_is_not_saved_is_still_waited_for(tmp_path: Path) -> None:
    """What it steps is copied while training goes on: without a guard the checkpoint would be torn."""
    net = Net()
    policy = SavePolicy(every_steps=1, exclude="optimizer")
    with opened(tmp_path / "run", **net.parts, save=policy, verify="always", on_busy="wait") as ckpt:
        values = []
        for step in range(1, 20):
            net.step()
            values.append(net.model[0].weight.detach().clone())
            ckpt.step(step)
        net.step()
        ckpt.wait()
    for step, value in enumerate(values, 1):
        assert torch.equal(asyncckpt.load(tmp_path / "run", step).state["model"]["0.weight"], value)


def test_c12_without_the_scheduler_a_restore_leaves_it_alone(tmp_path: Path) -> None:
    left_out(tmp_path, "save_scheduler_state", "scheduler")
    net = Net(seed=1)
    for _ in range(5):
        net.step()
    policy = CheckpointConfig(save_scheduler_state=False).save_policy()
    with opened(tmp_path / "whole", **net.parts, save=policy) as ckpt:
        ckpt.resume()
    assert net.scheduler.last_epoch == 5
    with opened(tmp_path / "none", model=net.model, optimizer=net.optimizer, scheduler=None) as ckpt:
        ckpt.save(1).wait()
    assert "scheduler" not in asyncckpt.load(tmp_path / "none").state


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(1).item()


def test_c13_all_of_the_random_state_comes_back_or_none_of_it(tmp_path: Path) -> None:
    draws()  # numpy's generator is there once somebody has drawn from it
    left_out(tmp_path, "save_random_state", "rng")
    with opened(tmp_path / "run") as ckpt:
        ckpt.save(1).wait()
        expected = draws()
        draws()
        ckpt.restore()
        assert draws() == expected  # the original had torch's alone
    with opened(tmp_path / "run", save=CheckpointConfig(save_random_state=False).save_policy()) as ckpt:
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        own = draws()
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        ckpt.resume()
        assert draws() == own


def test_c13_devices_that_are_not_there_any_more_are_named_and_the_rest_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from asyncckpt.construction import tracked

    real = tracked.capture_rng
    monkeypatch.setattr(
        tracked, "capture_rng", lambda: {**real(), "devices": {"cuda:6": b"0" * 16, "cuda:7": b"1" * 16}}
    )
    draws()  # numpy's generator is there once somebody has drawn from it
    with opened(tmp_path / "run") as ckpt:
        ckpt.save(1).wait()
        expected = draws()
        ckpt.restore()
        assert draws() == expected
    assert "the random state of cuda:6, cuda:7 was not restored" in caplog.text


def test_c14_a_save_writes_what_has_changed_and_loads_like_a_whole_one(tmp_path: Path) -> None:
    layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(16))
    root = tmp_path / "run"

    def written() -> int:
        return sum(file.stat().st_size for file in root.rglob("*.safetensors"))

    with opened(root, model=layers, keep=asyncckpt.RetentionPolicy(last=1)) as ckpt:
        ckpt.save(1).wait()
        whole = written()
        for step in (2, 3):
            layers[3].weight.data.add_(step)
            ckpt.save(step).wait()
        ckpt.wait()
        assert written() < 1.3 * whole
        assert steps(ckpt.checkpoints()) == [3]  # what it shares with those that are gone is there
    expected = {name: value.clone() for name, value in layers.state_dict().items()}
    found = asyncckpt.load(root).state["model"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def _fits(executor: str) -> str:
    return executor if sys.platform == "linux" else "thread"


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_c14_without_increments_every_checkpoint_is_whole(tmp_path: Path, executor: str) -> None:
    layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(16))
    policy = CheckpointConfig(use_incremental_saves=False).save_policy()
    with opened(tmp_path / "run", model=layers, save=policy, executor=_fits(executor)) as ckpt:
        for step in (1, 2):
            layers[3].weight.data.add_(step)
            ckpt.save(step).wait()
    first, second = (
        sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for folder in sorted((tmp_path / "run" / "data").iterdir())
    )
    assert second > 0.9 * first
    with opened(tmp_path / "run", model=layers, executor="thread") as ckpt:
        ckpt.resume()
        ckpt.save(3).wait()  # with them again
    *_, third = sorted((tmp_path / "run" / "data").iterdir())
    assert sum(file.stat().st_size for file in third.glob("*.safetensors")) < 0.1 * first
    assert asyncckpt.load(tmp_path / "run", 2).info.step == 2


def test_c14_damage_of_what_is_shared_is_found(tmp_path: Path) -> None:
    model = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(16))
    with opened(tmp_path / "run", model=model) as ckpt:
        ckpt.save(1).wait()
        model[3].weight.data.add_(1)
        ckpt.save(2).wait()
    (base,) = (tmp_path / "run" / "data").glob("00000001-*/*.safetensors")
    data = bytearray(base.read_bytes())
    data[-100] ^= 1
    base.write_bytes(data)
    for step in (1, 2):
        with pytest.raises(asyncckpt.errors.CheckpointCorruptError):
            asyncckpt.load(tmp_path / "run", step)


# -- C15, C16: commits and what they say ---------------------------------------------------------------------


def test_c15_each_checkpoint_is_a_commit_with_a_digest_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as ckpt:
        infos = [ckpt.save(step).wait() for step in (1, 2)]
        assert ckpt.restore(infos[0].id).step == 1
    manifests = sorted((tmp_path / "run" / "data").glob("*/manifest.json"))
    assert [info.digest for info in infos] == [sealed_digest(path.read_bytes()) for path in manifests]
    assert len({info.digest for info in infos}) == 2
    assert {info.digest for info in ckpt_infos(tmp_path / "run")} == {info.digest for info in infos}


def test_c15_without_commits_nothing_is_saved_but_what_is_asked_for(tmp_path: Path) -> None:
    """The original then had a record without a state, under no id: here there is a checkpoint or there is none."""
    config = CheckpointConfig(
        auto_commit=False, save_every_n_steps=1, save_every_n_epochs=1, save_on_best_metric="loss",
        keep_last_n_checkpoints=1, commit_message_template="by hand",
    )  # fmt: skip
    called: list[str] = []
    keywords = config.keywords(tmp_path / "run", "m")
    keywords["listeners"].append(Callbacks(lambda state, checkpoint: called.append(checkpoint)))
    with opened(tmp_path / "run", **keywords) as ckpt:
        assert [ckpt.step(step, metrics={"loss": 1 / step}) for step in (1, 2, 3)] == [None] * 3
        assert ckpt.epoch_end(1, step=3, metrics={"loss": 0.1}) is None
        assert ckpt.resume() is None
        with pytest.raises(asyncckpt.errors.CheckpointNotFoundError):
            ckpt.restore("latest")
        assert called == []
        assert ckpt.save(3).wait().message == "by hand"
        assert ckpt.restore("latest").step == 3
    assert called == ["00000001"]


def ckpt_infos(root: Path) -> list[asyncckpt.CheckpointInfo]:
    with opened(root) as ckpt:
        return ckpt.checkpoints()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CheckpointConfig().commit_message_template, "Checkpoint at epoch 2, step 7"),
        ("loss {loss:.2f}, val {val_loss:.4f}", "loss 0.25, val 0.1250"),
        ("{val/acc:>6.1f} of {{braces}}", "   0.5 of {braces}"),
        ("step {step:06d}", "step 000007"),
        ("{absent:.4f} {nothing}", "? ?"),
        ("{loss:d}", "0.25"),
        ("plain", "plain"),
    ],
)
def test_c16_a_checkpoint_says_what_its_template_says(tmp_path: Path, template: str, expected: str) -> None:
    policy = CheckpointConfig(commit_message_template=template).save_policy()
    metrics = {"loss": 0.25, "val_loss": 0.125, "val/acc": 0.5, "step": 99, "epoch": 98}
    with opened(tmp_path / "run", save=policy) as ckpt:
        assert ckpt.save(7, epoch=2, metrics=metrics).wait().message == expected
    assert [info.message for info in ckpt_infos(tmp_path / "run")] == [expected]


def test_c16_a_field_without_a_value_costs_no_checkpoint(tmp_path: Path) -> None:
    """The original raised a KeyError at the save, and a TypeError for None with a format."""
    policy = SavePolicy(every_steps=1, message="epoch {epoch:03d}: {val_loss:.4f} {val_loss}")
    with opened(tmp_path / "run", save=policy) as ckpt:
        handle = ckpt.step(1)
        assert handle is not None
        assert handle.wait().message == "epoch ?: ? ?"


@pytest.mark.skipif(sys.platform != "linux", reason="a worker process needs Linux")
def test_c16_a_worker_process_writes_the_message_and_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    recorder = Recorder()
    policy = SavePolicy(message="epoch {epoch}, größe {loss:.1f}")
    with opened(tmp_path / "run", save=policy, executor="process", listeners=[recorder]) as ckpt:
        assert ckpt.save(1, epoch=3, metrics={"loss": 0.5}).wait().message == "epoch 3, größe 0.5"
    assert [(event.epoch, event.message) for event in recorder.of(Durable)] == [(3, "epoch 3, größe 0.5")]


@pytest.mark.parametrize("template", ["{}", "{0}", "{step", "step}", "{step!r}", "{loss:.4q}", "{loss:{step}}"])
def test_c16_a_template_that_is_none_is_refused_before_training(template: str) -> None:
    with pytest.raises(ValueError, match="message="):
        CheckpointConfig(commit_message_template=template)


def test_c16_a_template_reaches_into_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "run", save=SavePolicy(message="{step.__class__} {metrics[0]}")) as ckpt:
        assert ckpt.save(1).wait().message == "? ?"


# -- C20, C21: asking and saving -----------------------------------------------------------------------------


def test_c20_to_ask_whether_to_save_changes_nothing() -> None:
    policy = CheckpointConfig(save_every_n_steps=10, save_every_n_epochs=2, save_on_best_metric="loss").save_policy()
    for _ in range(2):
        assert [step for step in range(31) if policy.is_due(step)] == [10, 20, 30]
        assert [epoch for epoch in range(5) if policy.is_due(7, ended_epoch=epoch)] == [2, 4]
        assert [policy.is_due(7, is_best=best) for best in (True, False)] == [True, False]
        assert not any(policy.is_due(0, ended_epoch=epoch, is_best=True) for epoch in (None, 1, 2))
    by_step = SavePolicy(every_steps=10, every_seconds=60)
    assert not by_step.is_due(10, ended_epoch=1, seconds=60), "at the end of an epoch only epochs count"
    timed = SavePolicy(every_seconds=60)
    assert [timed.is_due(1, seconds=seconds) for seconds in (59.9, 60, 60)] == [False, True, True]


def test_c21_a_save_that_is_not_due_is_none_and_one_by_hand_is_made_whatever_is_due(tmp_path: Path) -> None:
    with opened(tmp_path / "run", save=SavePolicy(every_steps=10)) as ckpt:
        assert ckpt.step(1) is None
        handle = ckpt.save(1)
        assert handle.wait().id == handle.id == "00000001"
        due_now = ckpt.step(10)
        assert due_now is not None
        assert due_now.wait().step == 10


def test_c21_what_changes_after_the_call_is_not_in_the_checkpoint() -> None:
    store = GatedStorage(MemoryStorage("c21"))
    weight = torch.ones(4)
    about = asyncckpt.TrainingState(model_name="before")
    metrics = {"loss": 0.5}

    class Holder:
        def state_dict(self) -> dict[str, Any]:
            return {"weight": weight, "list": [1]}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    with asyncckpt.AsyncCheckpointer(store, extra={"holder": Holder(), "about": about}, executor="thread") as ckpt:
        with store.hold("put", "data/*") as gate:
            handle = ckpt.save(1, metrics=metrics)
            gate.wait_reached()
            weight.fill_(9)
            about.model_name = "after"
            metrics["loss"] = 9.0
        assert handle.wait().metrics == {"loss": 0.5}
        found = asyncckpt.load(store)
        assert found.state["extra"]["holder"]["weight"].tolist() == [1] * 4
        assert found.training.model_name == "before"
