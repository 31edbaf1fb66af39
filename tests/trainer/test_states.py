"""E20, E22, E23, E24: phases, and where a training stands, as plain data."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asyncckpt.errors import TrainerError, UnsupportedFormat
from asyncckpt.trainer import ResumeState, RNGState, TrainerPhase, TrainMicroState, ValMicroState
from asyncckpt.trainer.resume_state import MIGRATIONS

from .small import ROWS, Linear, config, fitted

P = TrainerPhase

VALUES = """
    init train_start_epoch train_batch_load train_batch_forward train_batch_backward train_batch_optim_step
    scheduler_batch_step train_batch_end val_start_epoch val_batch_load val_batch_forward val_batch_end
    scheduler_epoch_step epoch_end checkpoint_save_start checkpoint_save_end training_complete error_recoverable
    error_fatal
"""


def test_e20_values_are_the_same_for_ever() -> None:
    assert [phase.value for phase in P] == VALUES.split()
    assert [phase.name.lower() for phase in P] == VALUES.split()


def test_e20_each_is_described_and_in_at_most_one_category() -> None:
    assert len({phase.description for phase in P}) == len(P)
    assert all(phase.is_train + phase.is_val + phase.is_error <= 1 for phase in P)
    assert [phase.name for phase in P if not phase.is_resumable] == [
        "TRAIN_BATCH_FORWARD", "TRAIN_BATCH_BACKWARD", "VAL_BATCH_FORWARD", "TRAINING_COMPLETE",
        "ERROR_RECOVERABLE", "ERROR_FATAL",
    ]  # fmt: skip


def test_e20_what_must_not_follow_is_refused_and_an_error_may_always() -> None:
    for phase in P:
        for other in P:
            if other in phase.follows or (other.is_error and phase.follows):
                assert phase.then(other) is other
            else:
                with pytest.raises(TrainerError, match=f"{other.name} cannot follow {phase.name}"):
                    phase.then(other)


def test_e20_a_training_goes_through_all_of_them_and_never_against_the_order(tmp_path: Path) -> None:
    seen: list[TrainerPhase] = []

    class Watched(Linear):
        @property
        def phase(self) -> TrainerPhase:
            return seen[-1]

        @phase.setter
        def phase(self, phase: TrainerPhase) -> None:
            seen.append(phase)

    fitted(Watched(config(tmp_path)), validation=ROWS[:2])
    assert {*seen} == {phase for phase in P if not phase.is_error}
    assert all(later in before.follows for before, later in pairwise(seen))


def test_e20_a_loop_that_takes_a_wrong_turn_is_stopped(tmp_path: Path) -> None:
    class Astray(Linear):
        def _start_epoch(self) -> TrainerPhase:
            super()._start_epoch()
            return P.VAL_BATCH_FORWARD

    trainer = Astray(config(tmp_path))
    with pytest.raises(TrainerError, match="VAL_BATCH_FORWARD cannot follow TRAIN_START_EPOCH"):
        fitted(trainer)
    assert trainer.phase is P.ERROR_FATAL


# -- E22, E23 ----------------------------------------------------------------------------------------------


def state(phase: TrainerPhase, **more: Any) -> ResumeState:
    return ResumeState(
        phase=phase,
        epoch=1,
        global_step=2,
        train=TrainMicroState(
            batch_idx=3, micro_step=1, loss_sum=0.5, num_samples=6, additional_metrics={"loss": 0.25}
        ),
        val=ValMicroState(batch_idx=2, loss_sum=0.75, metrics={"accuracy": 1.5}, num_samples=4),
        **more,
    )


@pytest.mark.parametrize("phase", list(P))
def test_e22_e23_it_is_plain_data_that_comes_back_with_what_belongs_to_its_phase(phase: TrainerPhase) -> None:
    before = state(phase, logs={"loss": 0.125}, timestamp=7.5)
    assert (before.train is not None) == phase.is_train
    assert (before.val is not None) == phase.is_val
    assert ResumeState.from_dict(json.loads(json.dumps(before.to_dict()))) == before


def test_e22_defaults_are_the_promised_ones() -> None:
    fresh = ResumeState(phase=P.INIT, epoch=0, global_step=0)
    assert (fresh.version, fresh.train, fresh.val, fresh.rng, fresh.timestamp) == ("v2.0", None, None, None, 0.0)
    assert vars(TrainMicroState()) == {
        "batch_idx": 0, "micro_step": 0, "loss_sum": 0.0, "num_samples": 0, "additional_metrics": {},
    }  # fmt: skip
    assert vars(ValMicroState()) == {"batch_idx": 0, "loss_sum": None, "metrics": {}, "num_samples": 0}


def test_e22_another_version_is_migrated_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    older = {**state(P.EPOCH_END).to_dict(), "version": "v1.0"}
    older["step"] = older.pop("global_step")
    with pytest.raises(UnsupportedFormat, match=r"written in version v1\.0, this is v2\.0"):
        ResumeState.from_dict(older)
    monkeypatch.setitem(MIGRATIONS, "v1.0", lambda d: {**d, "global_step": d["step"], "version": "v2.0"})
    assert ResumeState.from_dict(older).global_step == 2


def test_e20_e22_a_phase_of_a_newer_version_is_named_with_the_version() -> None:
    newer = {**state(P.EPOCH_END).to_dict(), "phase": "train_batch_dream"}
    with pytest.raises(UnsupportedFormat, match=r"'train_batch_dream' of a newer version than this v2\.0"):
        ResumeState.from_dict(newer)


def test_e23_sums_of_tensors_are_read_when_they_are_saved_and_go_on_to_the_bit() -> None:
    values = [torch.tensor(0.1), torch.tensor(0.7), torch.tensor(1e-9)]
    whole, part = ValMicroState(), ValMicroState()
    for number, value in enumerate(values):
        whole.add({"loss": value, "accuracy": value}, 3)
        part.add({"loss": value, "accuracy": value}, 3)
        if number == 1:
            part = ValMicroState(**json.loads(json.dumps(part.to_dict())))
    assert whole.means() == part.means()
    assert (whole.loss_sum, [*whole.metrics]) == (part.loss_sum, ["accuracy"])
    assert whole.loss_sum == pytest.approx(3 * 0.8)
    on_device = {"loss_sum": torch.tensor(0.5), "num_samples": 2}  # where sums stay
    for micro in (TrainMicroState(**on_device), ValMicroState(**on_device, metrics={"accuracy": torch.tensor(1.5)})):
        plain = json.loads(json.dumps(micro.to_dict()))
        assert (plain["loss_sum"], plain.get("metrics", {"accuracy": 1.5})) == (0.5, {"accuracy": 1.5})
    assert ValMicroState().to_dict()["loss_sum"] is None
    assert whole.means().keys() == {"val_loss", "val_accuracy"}
    for wrong in ("good", torch.ones(2), torch.tensor(1j)):
        with pytest.raises(TrainerError, match=r"'accuracy' is .*: give a number"):
            whole.add({"accuracy": wrong}, 1)
    given = {"loss": torch.tensor([0.5]), "count": 3, "name": "a", "pair": torch.ones(2), "complex": torch.tensor(1j)}
    assert TrainMicroState(additional_metrics=given).to_dict()["additional_metrics"] == {"loss": 0.5, "count": 3.0}


# -- E24 ---------------------------------------------------------------------------------------------------


def draws() -> list[float]:
    return [random.random(), random.gauss(), np.random.rand(), torch.rand(()).item(), torch.randn(3).sum().item()]


def test_e24_draws_after_a_restore_equal_those_after_the_capture() -> None:
    random.gauss()  # leaves one over, which is state too
    np.random.rand()  # of a generator that nobody has used there is no state
    found = RNGState.capture()
    expected = draws()
    draws()
    assert RNGState(**found.to_dict()).restore() == []
    assert draws() == expected


def test_e24_what_this_machine_has_no_place_for_is_said_and_the_rest_restored() -> None:
    np.random.rand()  # no test before may have
    found = RNGState.capture()
    expected = draws()
    (said,) = RNGState(**{**found.to_dict(), "devices": {"cuda:7": b"\0" * 16}}).restore()
    assert "cuda:7 was not restored" in said
    assert draws() == expected
    without = {name: value for name, value in found.to_dict().items() if name != "numpy"}
    assert RNGState(**without).to_dict() == without
    (said,) = RNGState(**without).restore()
    assert said.startswith("numpy: no random state")
