"""E17, E18, E25 to E27: what is saved by hand and on notice, and what becomes of a save that takes too long."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import asyncckpt
from asyncckpt import AsyncCheckpointer, Preempted, Preemption, Run, SavePolicy
from asyncckpt.errors import (
    CheckpointNotFoundError,
    CheckpointTimeoutError,
    PreemptionTimeoutError,
    TrainerError,
)
from asyncckpt.storage import from_url
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, ResumeState, TrainerPhase, TrainingCallback

from .small import ROWS, Linear, Recorded, config, fitted, weights


class After(TrainingCallback):
    """Does something once, after the batch `number` of the first epoch."""

    def __init__(self, number: int, act: Callable[[GenericTrainer], Any]) -> None:
        self.number, self.act = number, act
        self.given: Any = None
        self.raised: BaseException | None = None

    def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
        if batch_idx == self.number and trainer.epoch == 0:
            try:
                self.given = self.act(trainer)
            except Exception as error:
                self.raised = error


def told(number: int = signal.SIGTERM) -> Callable[[GenericTrainer], None]:
    return lambda trainer: os.kill(os.getpid(), number)


def trained(trainer: GenericTrainer, *callbacks: TrainingCallback, **more: Any) -> GenericTrainer:
    for callback in callbacks:
        trainer.add_callback(callback)
    fitted(trainer, **more)
    return trainer


class Slow(Linear):
    """Of a store whose requests can be held."""

    def __init__(self, config: GenericTrainerConfig) -> None:
        super().__init__(config)
        self.store = GatedStorage(from_url(str(config.checkpoint_dir)))

    def checkpointer(self, run: Run, objects: Mapping[str, Any]) -> AsyncCheckpointer:
        self.options = {"save": self.config.save, "preemption": self.config.preemption}
        return AsyncCheckpointer(self.store, **objects, **self.options, executor="thread", close_timeout=20)


# -- E17 ---------------------------------------------------------------------------------------------------


def test_e17_a_checkpoint_by_hand_is_there_at_once_whatever_the_policy_says(tmp_path: Path) -> None:
    for number, (emergency, preemption) in enumerate([(False, Preemption(signals=())), (True, None)]):
        root = tmp_path / str(number)
        saved = After(
            2, lambda trainer, emergency=emergency: (trainer.save_checkpoint(emergency), trainer.ckpt.latest())
        )
        # What an emergency may take is not `save_timeout`, in which nothing could be saved here.
        trained(Linear(config(root, preemption=preemption, save_timeout=1e-9 if emergency else None)), saved)
        folder, info = saved.given
        assert folder.parent == root / "data"
        assert (folder / "manifest.json").exists()
        assert (info.step, info.partial) == (3, False)


def test_e17_in_the_middle_of_a_batch_nothing_can_be_saved(tmp_path: Path) -> None:
    class Early(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            self.save_checkpoint()
            return super().training_step(batch, batch_idx)

    with pytest.raises(TrainerError, match="TRAIN_BATCH_FORWARD is no phase to save in"):
        fitted(Early(config(tmp_path)))
    with pytest.raises(TrainerError, match=r"no checkpointer before fit\(\)"):
        Linear(config(tmp_path / "new")).save_checkpoint()


class Saving(TrainingCallback):
    """Saves in every hook, and notes which step that saved, with which metrics, or that it was refused."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        for hook in ("training_start", "epoch_start", "batch_start", "batch_end", "epoch_end", "training_end"):
            setattr(self, f"on_{hook}", partial(self._save, hook))

    def _save(self, hook: str, trainer: GenericTrainer, *_: Any) -> None:
        try:
            trainer.save_checkpoint()
        except TrainerError as error:
            self.found[hook] = str(error).split(" is no phase")[0]
        else:
            info = trainer.ckpt.latest()
            assert info is not None
            self.found[hook] = info.step, sorted(info.metrics)


def test_e17_it_is_saved_in_each_hook_but_with_a_batch_in_hand_and_after_an_error(tmp_path: Path) -> None:
    saving = Saving()
    trained(Linear(config(tmp_path / "whole", epochs=1)), saving, rows=ROWS[:1])
    assert saving.found == {
        "training_start": (0, []), "epoch_start": (0, []), "batch_start": "TRAIN_BATCH_LOAD", "batch_end": (1, []),
        "epoch_end": (1, ["loss"]), "training_end": (1, ["loss"]),
    }  # fmt: skip

    class Failing(Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
            return {"loss": "no number"}

    failed = Saving()
    with pytest.raises(TrainerError, match="'loss' is 'no number'"):
        trained(Failing(config(tmp_path / "failed", epochs=1)), failed, rows=ROWS[:1], validation=ROWS[:1])
    assert failed.found["training_end"] == "ERROR_FATAL"


def test_e17_e18_what_is_saved_at_a_url_is_named_so_that_it_can_be_loaded(tmp_path: Path) -> None:
    class InProcess(Linear):
        def checkpointer(self, run: Run, objects: Mapping[str, Any]) -> AsyncCheckpointer:
            return AsyncCheckpointer(run, **objects, save=None, executor="thread")

    url = f"memory://{tmp_path.name}-{secrets.token_hex(4)}"
    trainer = InProcess(config(url))
    saved = After(1, lambda trainer: trainer.save_checkpoint())
    trained(trainer, saved)
    assert saved.given == f"{url}@00000001"
    named = trainer.load_checkpoint(saved.given)
    assert named is not None
    assert named.global_step == 2


class Counted(Recorded):
    """Saved itself: which hooks it was told of so far, and what it found there."""

    def state_dict(self) -> dict[str, Any]:
        return {"calls": [call for call in self.calls if not call[0].startswith("training")]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = list(state["calls"])

    def on_epoch_end(self, trainer: GenericTrainer, epoch: int, logs: Mapping[str, Any]) -> None:
        self.calls.append(("epoch_end", epoch, [part.training for part in trainer.model.modules()]))

    def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
        self.calls.append(("batch_end", batch_idx, logs["loss"].item(), logs["errors"].tolist(), logs["name"]))


class Other(Counted):
    """One more."""


class Leaves(TrainingCallback):
    """Saves in one hook, the second time it is called, and is interrupted there."""

    def __init__(self, hook: str) -> None:
        self.left = 2
        if hook:
            setattr(self, hook, self._leave)

    def _leave(self, trainer: GenericTrainer, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            trainer.save_checkpoint()
            raise KeyboardInterrupt


class Telling(Linear):
    """Gives more than numbers, and has a part that stays as it is."""

    def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        self.model[1].eval()
        x, y = batch
        errors = self.model(x).squeeze(-1) - y
        return {"loss": errors.square().mean(), "errors": errors, "name": f"batch {batch_idx}"}


@pytest.mark.parametrize("hook", ["on_epoch_start", "on_batch_end", "on_epoch_end"])
def test_e17_e19_where_a_hook_has_saved_each_callback_is_told_once(hook: str, tmp_path: Path) -> None:
    def told(root: str, hook: str) -> list[Any]:
        callbacks = Counted(), Leaves(hook), Other()
        trainer = Telling(config(tmp_path / root, gradient_accumulation_steps=3))
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
        try:
            trained(trainer, *callbacks, model=model, validation=ROWS)
        except KeyboardInterrupt:
            assert trainer.phase is TrainerPhase.ERROR_RECOVERABLE
            return []
        return [callbacks[0].state_dict(), callbacks[2].state_dict(), *weights(model), model.training]

    assert told("left", hook) == []
    for mine, twins in zip(told("left", ""), told("twin", ""), strict=True):
        assert mine == twins if not isinstance(mine, torch.Tensor) else torch.equal(mine, twins)
    assert told("left", "")[-1] is False, "a training that is over leaves the model as it did when it ended"


# -- E18 ---------------------------------------------------------------------------------------------------


def test_e18_the_latest_or_none_and_what_is_named_or_an_error(tmp_path: Path) -> None:
    trainer = Linear(config(tmp_path / "run", save=SavePolicy(every_steps=3)))
    assert trainer.load_checkpoint() is None
    saved = After(1, lambda trainer: trainer.save_checkpoint())
    trained(trainer, saved)
    newest = trainer.load_checkpoint()
    assert isinstance(newest, ResumeState)
    assert (newest.global_step, newest.epoch, newest.phase) == (8, 2, TrainerPhase.CHECKPOINT_SAVE_END)
    assert newest.rng is not None
    assert newest.timestamp > 0
    assert [(info.step, info.epoch) for info in _listed(tmp_path / "run")] == [(2, 0), (3, 0), (6, 1), (8, 2)]
    for name in (saved.given, f"{tmp_path / 'run'}@{saved.given.name[:8]}"):
        named = trainer.load_checkpoint(name)
        assert named is not None
        assert (named.global_step, named.phase) == (2, TrainerPhase.TRAIN_BATCH_END)
    for missing in (tmp_path / "nowhere", f"{tmp_path / 'run'}@00000099"):
        with pytest.raises(CheckpointNotFoundError) as raised:
            trainer.load_checkpoint(missing)
        assert isinstance(raised.value, FileNotFoundError)


# -- E25 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_e25_a_signal_ends_the_training_in_order_and_handlers_are_put_back(number: int, tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda got, frame: heard.append(got))
    try:
        own = signal.getsignal(number)
        recorded = Recorded()
        trainer = Linear(config(tmp_path, preemption=Preemption()))
        with pytest.raises(Preempted) as raised:
            trained(trainer, recorded, After(1, told(number)))
        assert raised.value.code == 128 + number
        assert (raised.value.step, raised.value.saved) == (2, 2)
        assert heard == [number], "who was there before is told too"
        assert signal.getsignal(number) is own
        assert recorded.calls[-1] == ("training_end", "error_recoverable")
        assert not [call for call in recorded.calls if call[0] == "epoch_end"]
    finally:
        signal.signal(number, before)


def test_e25_told_twice_it_leaves_once_and_with_a_flag_it_returns(tmp_path: Path) -> None:
    trainer = Linear(config(tmp_path, preemption=Preemption(exit="flag")))
    recorded = Recorded()
    trained(trainer, After(1, told()), After(1, told(signal.SIGUSR1)), recorded)
    assert trainer.global_step == 2
    assert trainer.phase is TrainerPhase.TRAIN_BATCH_LOAD
    assert recorded.calls[-1] == ("training_end", "train_batch_load")
    again = trained(Linear(config(tmp_path, preemption=Preemption())))
    assert (again.global_step, again.phase) == (8, TrainerPhase.TRAINING_COMPLETE)


def test_e25_a_signal_while_a_save_is_under_way_is_honoured(tmp_path: Path) -> None:
    trainer = Slow(config(tmp_path, save=SavePolicy(every_steps=1), preemption=Preemption()))
    gate = trainer.store.hold("put", "data/*")

    def act(trainer: GenericTrainer) -> None:
        gate.wait_reached()
        told()(trainer)
        gate.open()

    with pytest.raises(Preempted) as raised:
        trained(trainer, After(2, act))
    assert raised.value.saved == 3


def test_e25_another_thread_cannot_handle_signals_and_says_how_to_do_without(tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def run(trainer: GenericTrainer) -> None:
        try:
            fitted(trainer)
        except BaseException as error:
            raised.append(error)

    for trainer in (
        Linear(config(tmp_path / "a", preemption=Preemption())),
        Linear(config(tmp_path / "b", preemption=Preemption(signals=()))),
    ):
        thread = threading.Thread(target=run, args=(trainer,))
        thread.start()
        thread.join()
    (error,) = raised
    assert "signals=()" in str(error)
    assert trainer.phase is TrainerPhase.TRAINING_COMPLETE


# -- E26 ---------------------------------------------------------------------------------------------------


def test_e26_an_emergency_that_is_late_leaves_in_time_and_what_was_saved_as_it_was(tmp_path: Path) -> None:
    trainer = Slow(config(tmp_path, preemption=Preemption(deadline=0.4)))
    first = After(0, lambda trainer: trainer.save_checkpoint())

    def act(trainer: GenericTrainer) -> None:
        trainer.store.hold("put", "data/*")
        told()(trainer)

    with pytest.raises(Preempted) as raised:
        trained(trainer, first, After(2, act))
    assert isinstance(raised.value.__cause__, PreemptionTimeoutError)
    assert [info.step for info in _listed(tmp_path)] == [1]
    assert asyncckpt.load(tmp_path).info.step == 1
    trainer.store.release()


def test_e26_it_is_raised_off_the_main_thread_and_below_a_second(tmp_path: Path) -> None:
    trainer = Slow(config(tmp_path, preemption=Preemption(signals=(), deadline=0.3)))

    def act(trainer: GenericTrainer) -> None:
        with trainer.store.hold("put", "data/*"):
            trainer.save_checkpoint(emergency=True)

    late = After(2, act)
    thread = threading.Thread(target=trained, args=(trainer, late))
    thread.start()
    thread.join()
    assert isinstance(late.raised, PreemptionTimeoutError)
    assert trainer.phase is TrainerPhase.TRAINING_COMPLETE


def _listed(root: Path) -> list[asyncckpt.CheckpointInfo]:
    with AsyncCheckpointer(root, executor="thread") as ckpt:
        return ckpt.checkpoints()


# -- E27 ---------------------------------------------------------------------------------------------------


def test_e27_a_save_that_exceeds_its_limit_is_told_of_and_goes_on_as_the_training_does(tmp_path: Path) -> None:
    trainer = Slow(config(tmp_path, save_timeout=0.2))

    def act(trainer: GenericTrainer) -> None:
        with trainer.store.hold("put", "data/*"):
            trainer.save_checkpoint()

    late = After(2, act)
    trained(trainer, late)
    assert isinstance(late.raised, CheckpointTimeoutError)
    assert trainer.phase is TrainerPhase.TRAINING_COMPLETE
    assert [info.step for info in _listed(tmp_path)] == [3, 8]
