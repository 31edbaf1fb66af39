"""E16, E45: a training that goes on with other settings or loaders, or from a checkpoint that had no metrics yet."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import asyncckpt
from asyncckpt import Preempted, Preemption, SavePolicy

from .small import ROWS, Linear, config, fitted, weights

SIX = [*ROWS, *ROWS[:2]]


def test_e16_a_part_of_a_step_goes_on_with_another_number_of_batches_for_one(tmp_path: Path) -> None:
    class Left(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            if batch_idx == 2 and self.config.gradient_accumulation_steps == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(batch, batch_idx)

    notice = Preemption(deadline=60)
    with pytest.raises(Preempted):
        fitted(Left(config(tmp_path / "left", epochs=1, gradient_accumulation_steps=4, preemption=notice)), rows=SIX)
    trainer = Left(config(tmp_path / "left", epochs=1, gradient_accumulation_steps=2))
    here = weights(fitted(trainer, rows=SIX))
    # Three batches were over: they make a step with the next one, of the mean of all four.
    twin = Linear(config(tmp_path / "twin", epochs=1, gradient_accumulation_steps=4))
    assert trainer.global_step == 2
    for mine, twins in zip(here, weights(fitted(twin, rows=SIX)), strict=True):
        torch.testing.assert_close(mine, twins)


def test_e16_without_the_loader_that_it_was_left_in_a_validation_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Left(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().validation_step(batch, batch_idx)

    told = config(tmp_path, epochs=1, preemption=Preemption(deadline=60))
    with pytest.raises(Preempted):
        fitted(Left(told), validation=ROWS, schedulers=1)
    trainer = Linear(config(tmp_path, epochs=1))
    fitted(trainer, schedulers=1)  # torch knows of no step of this optimizer, and would warn
    assert set(trainer.logs) == {"loss"}
    assert "in the middle of a validation, and has no val_loader now" in caplog.text


def test_e45_a_checkpoint_that_is_gone_on_from_gets_the_metrics_of_its_epoch(tmp_path: Path) -> None:
    class Killed(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            if self.config.settings:
                raise KeyboardInterrupt
            return {"loss": float(self.epoch)}

    def trainer(**more: Any) -> Killed:
        return Killed(config(tmp_path, save=SavePolicy(every_steps=4), monitor=("val_loss", "min"), **more))

    with pytest.raises(KeyboardInterrupt):
        fitted(trainer(settings={"is_killed": True}), validation=ROWS)
    second = trainer()
    fitted(second, validation=ROWS)
    listed = asyncckpt.load(tmp_path, "best", only="model")
    assert (listed.training.step, dict(listed.training.metrics)["val_loss"]) == (4, 0.0)
