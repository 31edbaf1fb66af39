"""E16, E19, E28, E42, E44, E45: what a training does from its beginning to its end."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, Preemption, RetentionPolicy, SavePolicy
from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointNotFoundError,
    CheckpointTimeoutError,
    IncompatibleState,
    PreemptionTimeoutError,
    SaveError,
    TrainerError,
)
from asyncckpt.launch.config import experiment
from asyncckpt.metrics_log import read_metrics
from asyncckpt.run import load_config
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainerPhase, TrainingCallback
from asyncckpt.trainer.amounts import moved

from ..trackers.stub import Wandb
from .small import ROWS, Linear, Recorded, config, fitted, weights

# -- E16 ---------------------------------------------------------------------------------------------------


class Plain(GenericTrainer):
    """With the steps that it has by itself, on a thread of this process."""

    checkpointer = Linear.checkpointer


def test_e16_without_validation_there_is_the_mean_loss_of_each_epoch(tmp_path: Path) -> None:
    trainer = Linear(config(tmp_path))
    fitted(trainer)
    assert (trainer.phase, trainer.epoch, trainer.global_step) == (TrainerPhase.TRAINING_COMPLETE, 2, 8)
    info = asyncckpt.load(tmp_path).info
    assert (info.step, info.epoch, dict(info.metrics)) == (8, 2, trainer.logs)
    assert trainer.logs.keys() == {"loss"}
    # One that is twice as large counts twice.
    uneven = Linear(config(tmp_path / "uneven", epochs=1))
    fitted(uneven, rows=[(torch.zeros(2, 3), torch.zeros(2)), (torch.ones(4, 3), torch.full((4,), 9.0))], lr=0.0)
    torch.manual_seed(5)
    plain = nn.Linear(3, 1)
    small, large = plain(torch.zeros(3)).item() ** 2, (plain(torch.ones(3)).item() - 9.0) ** 2
    assert uneven.logs["loss"] == pytest.approx((2 * small + 4 * large) / 6)


def test_e16_batches_are_accumulated_and_those_that_are_left_make_a_step_of_their_own_mean(tmp_path: Path) -> None:
    recorded = Recorded()
    trainer = Linear(config(tmp_path, epochs=1, gradient_accumulation_steps=3))
    trainer.add_callback(recorded)
    model = fitted(trainer)
    assert trainer.global_step == 2
    assert [call[1] for call in recorded.calls if call[0] == "batch_end"] == [0, 1, 2, 3], "no batch of the second step"
    torch.manual_seed(5)
    plain = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    for part in (ROWS[:3], ROWS[3:]):
        optimizer.zero_grad()
        sum((plain(x).squeeze(-1) - y).square().mean() / len(part) for x, y in part).backward()
        optimizer.step()
    for one, other in zip(weights(model), weights(plain), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("interval", "rates"), [("step", [1, 0.5, 0.25, 0.125]), ("epoch", [1, 1, 1, 1])])
def test_e16_a_scheduler_goes_on_once_per_step_or_once_per_epoch_never_both(
    interval: Any, rates: list[float], tmp_path: Path
) -> None:
    trainer = Linear(config(tmp_path, scheduler_interval=interval))
    fitted(trainer, schedulers=1, lr=1.0)
    after = rates[-1] / 2 if interval == "step" else 0.5
    assert trainer.rates == [*rates, *(after * rate for rate in rates)]


def test_e16_a_step_without_a_loss_is_named(tmp_path: Path) -> None:
    class Without(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return {"los": torch.zeros(())}

    with pytest.raises(TrainerError, match=r"training_step\(\) gave .*'los'.*give a dict with a tensor as 'loss'"):
        fitted(Without(config(tmp_path)))


def test_e16_what_would_go_wrong_later_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd)
    for optimizers, scheduler, said in (
        ([], None, "optimizer is nothing"),
        ({"a": sgd}, None, "optimizer is dict"),
        (torch.optim.LBFGS(model.parameters()), None, "LBFGS makes several passes"),
        (sgd, plateau, "ReduceLROnPlateau follows a metric, of which each epoch has one"),
        (sgd, {"a": plateau}, "scheduler is dict: give one scheduler, or a list of them"),
    ):
        trainer = Linear(config(tmp_path / "none", scheduler_interval="step"))
        with pytest.raises(TrainerError, match=said):
            trainer.fit(model, cast(Any, optimizers), ROWS, scheduler=scheduler)
    with pytest.raises(TrainerError, match=r"model is function: give a torch\.nn\.Module"):
        Linear(config(tmp_path / "none")).fit(cast(Any, fitted), sgd, ROWS)
    follows = "ReduceLROnPlateau follows 'val_loss', and without a val_loader there is only loss"
    with pytest.raises(TrainerError, match=follows):
        Linear(config(tmp_path / "none", monitor=("val_loss", "min"))).fit(model, sgd, ROWS, None, plateau)
    for wrong in ({"epochs": 1}, "experiment.yaml"):
        with pytest.raises(TypeError, match="give a GenericTrainerConfig or an ExperimentConfig"):
            Linear(cast(Any, wrong))
    assert not (tmp_path / "none").exists()


def test_e16_an_iterator_in_place_of_a_loader_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="no batch in epoch 2: an iterator gives its batches once"):
        fitted(Linear(config(tmp_path)), rows=iter(ROWS))


def test_e16_validation_gives_metrics_and_by_default_the_numbers_of_a_step(tmp_path: Path) -> None:
    class Several(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return {**super().training_step(batch, batch_idx), "seen": 2, "rows": batch[0], "name": "a batch"}

    trainer = Several(config(tmp_path / "several", epochs=1))
    fitted(trainer, validation=ROWS)
    assert set(trainer.logs) == {"loss", "val_loss", "val_seen"}

    class Nothing(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return cast(Any, None)

    with pytest.raises(TrainerError, match=r"validation_step\(\) gave None: give a dict of metrics"):
        fitted(Nothing(config(tmp_path / "nothing")), validation=ROWS)


def test_e16_a_loader_without_batches_is_an_error_and_one_for_validation_gives_no_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TrainerError, match="train_loader gave no batch in epoch 1: there is nothing in it"):
        fitted(Linear(config(tmp_path / "none")), rows=[])
    trainer = Linear(config(tmp_path / "val"))
    fitted(trainer, validation=iter(ROWS))
    assert trainer.logs.keys() == {"loss"}
    assert "val_loader gave no batch in epoch 2: an iterator gives its batches once" in caplog.text
    assert "no batch in epoch 1: an" not in caplog.text


def test_e16_validation_is_averaged_over_samples_and_learns_nothing(tmp_path: Path) -> None:
    class Judged(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            assert not self.model.training
            assert not torch.is_grad_enabled()
            x, _ = batch
            return {"loss": x.mean(), "val_count": float(len(x))}

    trainer = Judged(config(tmp_path, epochs=1, monitor=("val_loss", "min")))
    fitted(trainer, validation=[(torch.ones(3, 3), None), (torch.full((1, 3), 5.0), None)])
    assert trainer.logs["val_loss"] == 2.0
    assert trainer.logs["val_count"] == 2.5


def test_e16_a_batch_has_as_many_samples_as_its_first_tensor_is_long(tmp_path: Path) -> None:
    class Named(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return {f"batch_{batch_idx}": torch.tensor(1.0)}

    rows = [
        torch.ones(3, 7), [torch.ones(2)], {"name": "a", "x": torch.ones(4, 1)}, ("name", [torch.ones(5)]),
        ({"x": torch.ones(6)}, torch.ones(9)), torch.tensor(8.0), "text", 7, ("a", "b"),
    ]  # fmt: skip
    trainer = Named(config(tmp_path, epochs=1))
    fitted(trainer, validation=rows)
    samples = [3, 2, 4, 5, 6, 1, 1, 1, 1]
    share = {f"val_batch_{number}": count / sum(samples) for number, count in enumerate(samples)}
    assert trainer.logs == pytest.approx({"loss": trainer.logs["loss"], **share})


def test_e16_a_batch_is_moved_with_all_that_is_in_it_and_stays_what_it_is() -> None:
    class Pair(NamedTuple):
        x: torch.Tensor
        name: str

    here, there = torch.device("cpu"), torch.device("meta")
    batch = {"pair": Pair(torch.ones(2), "a"), "list": [torch.ones(1), 3], "tuple": (torch.ones(1), None)}
    found = moved(batch, there)
    assert [type(part) for part in found.values()] == [Pair, list, tuple]
    assert [part[0].device for part in found.values()] == [there] * 3
    assert [part[1] for part in found.values()] == ["a", 3, None]
    assert moved(batch, here)["pair"].x is batch["pair"].x


def test_e16_the_default_step_calls_the_model_with_the_batch(tmp_path: Path) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (self.inner(x).squeeze(-1) - y).square().mean()

    class Answer(nn.Module):
        """Gives its loss in one of the ways that models have."""

        def __init__(self, way: Callable[[torch.Tensor], Any]) -> None:
            super().__init__()
            self.inner, self.way = Whole(), way

        def forward(self, x: torch.Tensor) -> Any:
            return self.way(self.inner(x, torch.ones(2)))

    ways = [lambda loss: loss, lambda loss: {"loss": loss, "more": 1}, lambda loss: SimpleNamespace(loss=loss)]
    kinds = [
        (ROWS, Whole()), ([list(row) for row in ROWS], Whole()), ([{"x": x, "y": y} for x, y in ROWS], Whole()),
        *(([x for x, _ in ROWS], Answer(way)) for way in ways),
    ]  # fmt: skip
    losses = set()
    for number, (rows, model) in enumerate(kinds):
        nn.init.constant_(model.get_parameter("inner.weight" if number < 3 else "inner.inner.weight"), 0.1)
        nn.init.constant_(model.get_parameter("inner.bias" if number < 3 else "inner.inner.bias"), 0.0)
        trainer = Plain(config(tmp_path / str(number), epochs=1))
        fitted(trainer, rows=rows, model=model)
        losses.add(trainer.logs["loss"])
    assert len(losses) == 1
    assert math.isfinite(losses.pop())


def test_e16_the_default_checkpointer_is_as_the_configuration_says(tmp_path: Path) -> None:
    class Loss(nn.Linear):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (super().forward(x).squeeze(-1) - y).square().mean()

    class Told(TrainingCallback):
        def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
            if trainer.global_step == 6:
                os.kill(os.getpid(), signal.SIGUSR1)

    said = config(
        tmp_path / "run", save=SavePolicy(every_epochs=1), keep=RetentionPolicy(last=1, best=1),
        monitor=("loss", "max"), preemption=Preemption(exit="flag"),
    )  # fmt: skip
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        first = GenericTrainer(said)
        first.add_callback(Told())
        fitted(first, model=Loss(3, 1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (first.global_step, first.phase) == (6, TrainerPhase.TRAIN_BATCH_LOAD)
    second = GenericTrainer(said)
    model = fitted(second, model=Loss(3, 1))
    twin = fitted(Plain(config(tmp_path / "twin")), model=Loss(3, 1))
    assert all(map(torch.equal, weights(model), weights(twin)))
    with AsyncCheckpointer(tmp_path / "run", executor="thread") as ckpt:
        assert [info.step for info in ckpt.checkpoints()] == [4, 8]
    assert asyncckpt.load(tmp_path / "run", "best").info.step == 4


def test_e16_losses_are_scaled_in_half_precision_alone_and_gradients_are_clipped_as_they_are(tmp_path: Path) -> None:
    class Elementwise(Linear):
        """Of operations that autocast leaves alone, so that each way comes to the same to the bit."""

        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            seen.add((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            x, y = batch
            weight, bias = self.model.parameters()
            return {"loss": ((x * weight).sum(-1) + bias - y).square().mean()}

    found, kept = [], []
    for amp, dtype in ((None, None), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        seen: set[Any] = set()
        root = tmp_path / str(amp)
        trainer = Elementwise(config(root, amp=amp, max_grad_norm=0.5, log_every_n_steps=1, epochs=1))
        found.append(weights(fitted(trainer, validation=ROWS[:1])))
        norms = [row.metrics["grad_norm"] for row in read_metrics(root / "logs").rows if "grad_norm" in row.metrics]
        found[-1].append(torch.tensor(norms))
        kept.append("scaler" in asyncckpt.load(root).state)
        assert {(on, kind if on else None) for on, kind in seen} == {(amp is not None, dtype)}
    assert kept == [False, False, True]
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    assert max(found[0][-1]) > 0.5


def test_e16_with_scaled_losses_an_optimizer_may_have_nothing_to_do(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 1), nn.Linear(3, 1)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, other)]
    before = weights(model), weights(other)
    Linear(config(tmp_path, amp="float16", epochs=8)).fit(model, cast(Any, optimizers), ROWS)
    assert not torch.equal(before[0][0], weights(model)[0])
    assert all(map(torch.equal, before[1], weights(other)))


def test_e16_a_model_without_parameters_is_on_the_host(tmp_path: Path) -> None:
    class Own(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return {"loss": own.square().sum()}

    own = nn.Parameter(torch.ones(1))
    trainer = Own(config(tmp_path, epochs=1))
    trainer.fit(nn.Identity(), torch.optim.SGD([own], lr=0.1), ROWS)
    assert trainer.device == torch.device("cpu")
    assert own.item() == pytest.approx(0.8**4)


def test_e16_a_training_that_is_over_is_left_as_it_is_and_more_epochs_go_on(tmp_path: Path) -> None:
    model = fitted(Linear(config(tmp_path)))
    again = Linear(config(tmp_path))
    recorded = Recorded()
    again.add_callback(recorded)
    same = fitted(again)
    assert recorded.calls == [("training_start",), ("training_end", "training_complete")]
    assert all(map(torch.equal, weights(model), weights(same)))
    more, recorded = Linear(config(tmp_path, epochs=3)), Recorded()
    more.add_callback(recorded)
    fitted(more)
    assert (more.epoch, more.global_step) == (3, 12)
    assert (recorded.calls[1], recorded.calls[-2]) == (("epoch_start", 3), ("epoch_end", 3, ["loss"]))


def test_e16_one_trainer_fits_once(tmp_path: Path) -> None:
    trainer = Linear(config(tmp_path))
    fitted(trainer)
    with pytest.raises(TrainerError, match="make a new one"):
        fitted(trainer)


def test_e16_what_means_nothing_is_refused() -> None:
    for wrong in (
        {"epochs": 0}, {"gradient_accumulation_steps": 0}, {"max_grad_norm": 0.0}, {"amp": "int8"},
        {"scheduler_interval": "batch"}, {"patience": 0}, {"epochs": 1.5}, {"epochs": "3"},
        {"log_every_n_steps": 0}, {"epochs": True}, {"max_grad_norm": "1.0"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GenericTrainerConfig(**{"epochs": 1, **wrong})
    for amp in ("bfloat16", "float16", None):
        assert GenericTrainerConfig(epochs=1, amp=amp).amp == amp


def test_e16_x20_each_section_of_an_experiment_comes_to_its_place() -> None:
    said = experiment(
        {
            "experiment_name": "tiny",
            "model": {"name": "linear"},
            "training": {
                "epochs": 3, "batch_size": 2, "learning_rate": 0.1, "gradient_accumulation_steps": 4,
                "max_grad_norm": 0.5,
            },
            "data": {"dataset_name": "noise"},
            "optimizer": {"name": "sgd"},
            "checkpoint": {
                "checkpoint_dir": "somewhere", "monitor": "accuracy", "mode": "max", "save_every_n_epochs": 2,
                "save_top_k": 3,
            },
            "preemption": {"timeout_minutes": 2, "grace_period_seconds": 7, "max_preemptions": 3},
            "logging": {"log_every_n_steps": 6, "use_wandb": True, "wandb_project": "p", "wandb_entity": "e"},
            "seed": 8,
            "deterministic": False,
            "benchmark": True,
            "custom_params": {"text": "${model.name}"},
        },
        written={(("experiment_name",), "tiny"): "${NAME}", (("checkpoint", "checkpoint_dir"), "somewhere"): "${DIR}"},
    )  # fmt: skip
    found = GenericTrainerConfig.of(said)
    assert replace(found, settings={}) == GenericTrainerConfig(
        epochs=3, checkpoint_dir="somewhere", gradient_accumulation_steps=4, max_grad_norm=0.5,
        save=SavePolicy(every_epochs=2), keep=RetentionPolicy(best=3), monitor=("accuracy", "max"),
        preemption=Preemption(deadline=7, requeue="auto", max_preemptions=3), save_timeout=120, seed=8,
        deterministic=False, benchmark=True, log_every_n_steps=6, use_wandb=True, wandb_project="p", wandb_entity="e",
    )  # fmt: skip
    whole = found.whole()
    assert whole["experiment_name"] == "tiny", "a run is called so, whatever that was made of"
    assert whole["checkpoint"]["checkpoint_dir"] == "${DIR}"
    assert whole["custom_params"] == {"text": "${model.name}"}
    for given, start in ((3, 3), (Path("other"), "other"), ("best", "best")):
        assert replace(found, resume_from=given).whole()["checkpoint"] == {**whole["checkpoint"], "resume": start}


def test_e16_what_was_configured_by_hand_is_written_down_too(tmp_path: Path) -> None:
    fitted(Linear(config(tmp_path, epochs=1, max_grad_norm=0.5)))
    said = load_config(tmp_path)["config"]
    assert (said["epochs"], said["max_grad_norm"], said["gradient_accumulation_steps"]) == (1, 0.5, 1)
    assert said.keys() == {each.name for each in fields(GenericTrainerConfig)} - {"settings"}


def test_e16_the_configuration_of_an_experiment_is_one_of_a_trainer(tmp_path: Path) -> None:
    said = experiment(
        {
            "experiment_name": "tiny",
            "model": {"name": "linear"},
            "training": {"epochs": 1, "batch_size": 2, "learning_rate": 0.1, "gradient_accumulation_steps": 2},
            "data": {"dataset_name": "noise"},
            "optimizer": {"name": "sgd"},
            "checkpoint": {"checkpoint_dir": str(tmp_path), "monitor": "loss"},
            "seed": 3,
            "custom_params": {"url": "to hunter2"},
        },
        written={(("custom_params", "url"), "to hunter2"): "to ${SECRET}"},
    )
    trainer = Linear(said)
    fitted(trainer)
    assert (trainer.global_step, trainer.config.seed) == (2, 3)
    config = load_config(tmp_path)["config"]
    assert config["experiment_name"] == "tiny"
    assert config["custom_params"] == {"url": "to ${SECRET}"}
    assert not [path for path in tmp_path.rglob("*.json") if "hunter2" in path.read_text()]


def test_e16_parameters_that_an_epoch_adds_are_clipped_with_the_others(tmp_path: Path) -> None:
    late = torch.nn.Parameter(torch.zeros(1))
    norms: list[float] = []

    class Late(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return {"loss": super().training_step(batch, batch_idx)["loss"] + 1e6 * late.sum()}

    class Adds(TrainingCallback):
        def on_epoch_start(self, trainer: GenericTrainer, epoch: int) -> None:
            if epoch == 2:
                trainer.optimizers[0].add_param_group({"params": [late]})

        def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
            norms.append(float(logs["grad_norm"]))

    trainer = Late(config(tmp_path, max_grad_norm=1.0))
    trainer.add_callback(Adds())
    fitted(trainer)
    assert max(norms[:4]) < 1e5 < min(norms[4:])


# -- E19 ---------------------------------------------------------------------------------------------------


def test_e19_hooks_come_in_order_with_what_they_are_told(tmp_path: Path) -> None:
    recorded = Recorded()
    trainer = Linear(config(tmp_path, epochs=1))
    trainer.add_callback(recorded)
    fitted(trainer, rows=ROWS[:2], validation=ROWS[:1])
    assert recorded.calls == [
        ("training_start",),
        ("epoch_start", 1),
        ("batch_start", 0),
        ("batch_end", 0, ["loss"]),
        ("batch_start", 1),
        ("batch_end", 1, ["loss"]),
        ("epoch_end", 1, ["loss", "val_loss"]),
        ("training_end", "training_complete"),
    ]


def test_e19_a_hook_that_raises_is_told_of_and_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(TrainingCallback):
        def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
            raise OSError("no room")

    recorded = Recorded()
    trainer = Linear(config(tmp_path, epochs=1))
    trainer.add_callback(Broken())
    trainer.add_callback(recorded)
    fitted(trainer)
    assert len([call for call in recorded.calls if call[0] == "batch_end"]) == 4
    assert caplog.text.count("Broken failed in on_batch_end") == 4
    assert "no room" in caplog.text


def test_e19_the_end_is_told_also_where_the_training_fails(tmp_path: Path) -> None:
    class Failing(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            raise OSError("the device is gone")

    recorded = Recorded()
    trainer = Failing(config(tmp_path))
    trainer.add_callback(recorded)
    with pytest.raises(OSError, match="the device is gone"):
        fitted(trainer)
    assert recorded.calls[-1] == ("training_end", "error_fatal")
    assert ("epoch_end", 1, []) not in recorded.calls


class Counting(TrainingCallback):
    """Has a state of its own."""

    def __init__(self, by: int = 1) -> None:
        self.count, self.by = 0, by

    def on_epoch_end(self, trainer: GenericTrainer, epoch: int, logs: Mapping[str, Any]) -> None:
        self.count += self.by

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


class Newer(Counting):
    """One that no checkpoint knows."""


def test_e19_each_comes_back_to_its_own_state_and_one_that_is_no_more_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = []
    for epochs, callbacks in enumerate([[Counting(), Recorded(), Counting(10)], [Counting(), Counting(10)]], start=1):
        trainer = Linear(config(tmp_path, epochs=epochs))
        for callback in callbacks:
            trainer.add_callback(callback)
        fitted(trainer)
        counts.append([callback.count for callback in callbacks if isinstance(callback, Counting)])
    assert counts == [[1, 10], [2, 20]]
    saved = asyncckpt.load(tmp_path, only="extra.trainer").state["extra"]["trainer"]["callbacks"]
    assert saved == {"Counting": {"count": 2}, "Counting 2": {"count": 20}}
    assert "holds callbacks" not in caplog.text
    trainer, alone, newer = Linear(config(tmp_path, epochs=3)), Counting(), Newer()
    trainer.add_callback(alone)
    trainer.add_callback(newer)
    fitted(trainer)
    assert (alone.count, newer.count) == (3, 1)
    assert "holds callbacks that this training has not: Counting 2" in caplog.text


def test_e19_hooks_that_nobody_has_are_not_called_and_one_may_be_given_to_an_object(tmp_path: Path) -> None:
    ended: list[int] = []
    given = TrainingCallback()
    vars(given)["on_batch_end"] = lambda trainer, batch_idx, logs: ended.append(batch_idx)
    trainer = Linear(config(tmp_path, epochs=1))
    for callback in (given, Counting(), TrainingCallback()):
        trainer.add_callback(callback)
    assert trainer.callbacks.heard == {"on_batch_end", "on_epoch_end"}
    fitted(trainer)
    assert ended == [0, 1, 2, 3]


def test_e19_what_is_no_callback_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="is no TrainingCallback"):
        Linear(config(tmp_path)).add_callback(print)


# -- E28 ---------------------------------------------------------------------------------------------------


def test_e28_both_timeouts_are_errors_of_a_trainer_and_of_python() -> None:
    for error in (PreemptionTimeoutError, CheckpointTimeoutError):
        assert issubclass(error, TrainerError)
        assert issubclass(error, TimeoutError)
        assert issubclass(error, SaveError)
    assert issubclass(TrainerError, AsyncCkptError)


# -- E42 ---------------------------------------------------------------------------------------------------


def test_e42_each_nth_step_is_logged_and_each_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = Linear(config(tmp_path, log_every_n_steps=3, max_grad_norm=1.0))
    fitted(trainer, validation=ROWS[:1])
    assert "wandb" not in caplog.text
    rows = read_metrics(tmp_path / "logs").rows
    by_step = [(row.step, sorted(row.metrics)) for row in rows]
    step, epoch = ["grad_norm", "loss", "lr"], ["loss", "val_loss"]
    assert by_step == [(3, step), (4, epoch), (6, step), (8, epoch)]


def test_e42_a_tracker_that_is_not_to_be_had_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    trainer = Linear(config(tmp_path, use_wandb=True))
    fitted(trainer)
    assert trainer.phase is TrainerPhase.TRAINING_COMPLETE
    assert "wandb" in caplog.text


def test_e42_a_run_of_wandb_is_in_the_project_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    fitted(Linear(config(tmp_path, use_wandb=True, wandb_project="p", wandb_entity="e", log_every_n_steps=3)))
    (run,) = wandb.begun
    assert (run.arguments["project"], run.arguments["entity"], run.finished) == ("p", "e", 1)
    assert [row["asyncckpt/step"] for row in run.rows if "lr" in row] == [3, 6]


# -- E44 ---------------------------------------------------------------------------------------------------


class Modes(TrainingCallback):
    def on_training_start(self, trainer: GenericTrainer) -> None:
        cudnn = torch.backends.cudnn
        self.seen = (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)


@pytest.mark.parametrize(
    ("deterministic", "benchmark", "seen"),
    [(True, False, (True, True, False)), (False, True, (False, False, True)), (True, True, (True, True, False))],
)
def test_e44_modes_hold_for_the_training_and_deterministic_wins(
    deterministic: bool, benchmark: bool, seen: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    modes = Modes()
    trainer = Linear(config(tmp_path, deterministic=deterministic, benchmark=benchmark, seed=1))
    trainer.add_callback(modes)
    fitted(trainer)
    assert modes.seen == seen
    after = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    assert after == before
    assert ("contradict each other" in caplog.text) == (deterministic and benchmark)


def test_e44_a_seed_is_set_at_the_beginning_and_not_after_a_resume(tmp_path: Path) -> None:
    class Drawing(Recorded):
        def on_training_start(self, trainer: GenericTrainer) -> None:
            self.calls.append((torch.rand(()).item(),))

    drawn = []
    for epochs in (1, 2):
        recorded = Drawing()
        trainer = Linear(config(tmp_path, seed=7, epochs=epochs))
        trainer.add_callback(recorded)
        fitted(trainer)
        drawn.append(recorded.calls[0][0])
    torch.manual_seed(7)
    assert drawn == [torch.rand(()).item(), torch.rand(()).item()]


def test_e44_what_the_start_of_each_process_draws_is_drawn_by_no_batch(tmp_path: Path) -> None:
    class Starting(TrainingCallback):
        def __init__(self, count: int) -> None:
            self.count = count

        def on_training_start(self, trainer: GenericTrainer) -> None:
            torch.rand(self.count)

    class Drawing(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            drawn.append(torch.rand(()).item())
            return super().training_step(batch, batch_idx)

    both = []
    for root, starts in (("twin", [(2, 1)]), ("left", [(1, 1), (2, 5)])):
        drawn: list[float] = []
        for epochs, count in starts:
            trainer = Drawing(config(tmp_path / root, seed=7, epochs=epochs))
            trainer.add_callback(Starting(count))
            fitted(trainer)
        both.append(drawn)
    assert both[0] == both[1]
    assert len(both[0]) == 8


# -- E45 ---------------------------------------------------------------------------------------------------


def test_e45_its_own_newest_comes_before_what_it_may_start_from_and_that_before_nothing(tmp_path: Path) -> None:
    other = fitted(Linear(config(tmp_path / "other")))
    first = Linear(config(tmp_path / "own", epochs=1, resume_from=tmp_path / "other"))
    started = fitted(first, lr=0.0)
    assert all(map(torch.equal, weights(started), weights(other)))
    assert first.global_step == 4, "weights alone are taken"
    fitted(Linear(config(tmp_path / "other", epochs=4)))
    second = Linear(config(tmp_path / "own", epochs=2, resume_from=tmp_path / "other"))
    assert all(map(torch.equal, weights(fitted(second, lr=0.0)), weights(started)))
    assert second.global_step == 8


def test_e45_what_is_named_and_not_there_is_an_error_before_any_training(tmp_path: Path) -> None:
    for missing in (tmp_path / "nowhere", 77):
        with pytest.raises(CheckpointNotFoundError):
            fitted(Linear(config(tmp_path / "own", resume_from=missing)))


def test_e45_weights_of_another_model_need_to_be_asked_for(tmp_path: Path) -> None:
    fitted(Linear(config(tmp_path / "other")))
    larger = nn.Sequential()
    larger.weight, larger.bias = nn.Parameter(torch.zeros(1, 3)), nn.Parameter(torch.zeros(1))
    larger.more = nn.Parameter(torch.zeros(1))
    larger.forward = lambda x: x @ larger.weight.T + larger.bias + larger.more
    with pytest.raises(TrainerError, match=r"resume_from=.*other: .* strict=False takes what both have: [\s\S]*more"):
        fitted(Linear(config(tmp_path / "own", resume_from=tmp_path / "other")), model=larger)
    fitted(Linear(config(tmp_path / "second", resume_from=tmp_path / "other", strict=False)), model=larger)


def test_e45_what_does_not_go_on_is_told_where_it_can_begin(tmp_path: Path) -> None:
    fitted(Linear(config(tmp_path)))
    with pytest.raises(IncompatibleState, match="holds no scaler") as caught:
        fitted(Linear(config(tmp_path, epochs=3, amp="float16")))
    assert caught.value.__notes__ == [
        f"Another training begins in another checkpoint_dir; resume_from={str(tmp_path)!r} has these weights."
    ]


def test_e45_a_model_that_is_wrapped_starts_from_the_weights_of_one_that_is_not(tmp_path: Path) -> None:
    other = fitted(Linear(config(tmp_path / "other")))
    wrapped = nn.DataParallel(nn.Linear(3, 1))
    fitted(Linear(config(tmp_path / "own", resume_from=tmp_path / "other")), model=wrapped, lr=0.0)
    assert all(map(torch.equal, weights(wrapped), weights(other)))


def test_e45_it_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    class Worse(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return {"loss": [3.0, 1.0, 2.0, 4.0, 5.0][self.epoch]}

    trainer = Worse(
        config(
            tmp_path, epochs=5, patience=2, monitor=("val_loss", "min"),
            save=SavePolicy(every_epochs=1), keep=RetentionPolicy(last=1, best=1),
        )
    )  # fmt: skip
    fitted(trainer, validation=ROWS[:1])
    assert trainer.epoch == 4
    assert asyncckpt.load(tmp_path, "best").info.metrics["val_loss"] == 1.0
    assert asyncckpt.load(tmp_path).info.epoch == 4


def test_e45_what_is_better_by_no_more_than_the_threshold_is_no_improvement(tmp_path: Path) -> None:
    class Slowly(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return {"loss": 3.0 - 0.25 * self.epoch}

    ends = []
    for patience, threshold in ((2, 0.0), (2, 0.5), (None, 0.5)):
        said = {"patience": patience, "threshold": threshold, "monitor": ("val_loss", "min")}
        trainer = Slowly(config(tmp_path / f"{patience} {threshold}", epochs=4, **said))
        fitted(trainer, validation=ROWS[:1])
        ends.append(trainer.epoch)
    assert ends == [4, 3, 4]


def test_e45_a_metric_that_is_not_there_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted(Linear(config(tmp_path, monitor=("accuracy", "max"))))
    assert caplog.text.count("'accuracy' is monitored, and is no metric: there is loss") == 1


def test_e45_a_scheduler_that_follows_a_metric_is_told_it(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    optimizer.param_groups[0]["lr"] = 0.0
    Linear(config(tmp_path / "a", epochs=3)).fit(model, optimizer, ROWS, None, plateau)
    assert plateau.num_bad_epochs + plateau.cooldown_counter >= 0
    assert plateau.last_epoch == 3
    with pytest.raises(TrainerError, match="ReduceLROnPlateau follows 'accuracy'"):
        Linear(config(tmp_path / "b", monitor=("accuracy", "max"))).fit(model, optimizer, ROWS, None, plateau)
