"""Loop: what a training does in each phase, one method for each that it can go on in, which returns what comes next.

`Loop._go` is the whole loop: do what the phase says, go to the next one, and offer the runtime to save. A checkpoint
holds the phase that comes next and what `asyncckpt.trainer.trainer` says of it; to resume is to begin there.

What this adds to a step is calls: each is read from afar, right after a pass through a model that fills all caches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import TrainerError
from asyncckpt.trackers import Trackers
from asyncckpt.trainer.amounts import is_amount, moved, samples_of
from asyncckpt.trainer.batches import NONE_LEFT, Batches
from asyncckpt.trainer.callbacks import Callbacks
from asyncckpt.trainer.config import GenericTrainerConfig
from asyncckpt.trainer.gradients import Gradients, has_gradients
from asyncckpt.trainer.phases import TrainerPhase
from asyncckpt.trainer.resume_state import TrainMicroState, ValMicroState
from asyncckpt.training import EarlyStopping

logger = logging.getLogger("asyncckpt")

P = TrainerPhase

STEPS = (P.TRAIN_BATCH_OPTIM_STEP, P.SCHEDULER_BATCH_STEP, P.TRAIN_BATCH_END)
"""What completes a step, once there are all gradients of it."""


class Loop:
    """Of `config`; `GenericTrainer.fit` sets what is trained, and where it begins."""

    model: nn.Module
    """What is trained."""
    optimizers: list[Optimizer]
    schedulers: list[Any]
    device: torch.device
    _ckpt: AsyncCheckpointer | None = None
    _told: Trackers
    _scaler: torch.amp.GradScaler | None
    """Where losses are scaled."""
    _gradients: Gradients
    _batches: Batches
    _val_batches: Batches
    _has_validation = False
    _batch: Any = None
    _saved: int | None = None
    """The step of the newest save that a policy asked for, or that the training goes on from."""

    def __init__(self, config: GenericTrainerConfig) -> None:
        self.config = config
        self.callbacks = Callbacks()
        self.early = EarlyStopping(config.monitor, patience=config.patience or 1, threshold=config.threshold)
        self.phase = P.INIT
        """What comes next."""
        self.epoch = self.global_step = 0
        self.logs: dict[str, float] = {}
        """The metrics of the epoch that is over, or about to be; none once another step is made."""
        self._train, self._val = TrainMicroState(), ValMicroState()
        self._do: dict[TrainerPhase, Callable[[], TrainerPhase]] = {
            P.INIT: lambda: P.TRAIN_START_EPOCH,
            P.TRAIN_START_EPOCH: self._start_epoch,
            P.TRAIN_BATCH_LOAD: self._train_batch,
            P.TRAIN_BATCH_OPTIM_STEP: self._step,
            P.SCHEDULER_BATCH_STEP: self._schedule_step,
            P.TRAIN_BATCH_END: self._end_batch,
            P.VAL_START_EPOCH: self._start_validation,
            P.VAL_BATCH_LOAD: self._load_validation,
            P.VAL_BATCH_FORWARD: self._validate,
            P.VAL_BATCH_END: self._end_validation_batch,
            P.SCHEDULER_EPOCH_STEP: self._schedule_epoch,
            P.EPOCH_END: self._end_epoch,
            P.CHECKPOINT_SAVE_START: lambda: P.CHECKPOINT_SAVE_END,
            P.CHECKPOINT_SAVE_END: self._next_epoch,
        }

    def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        """See `GenericTrainer`."""
        raise NotImplementedError

    def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        """See `GenericTrainer`."""
        raise NotImplementedError

    @property
    def ckpt(self) -> AsyncCheckpointer:
        """The checkpointer; raises `TrainerError` before there is one."""
        if self._ckpt is None:
            raise TrainerError("there is no checkpointer before fit()")
        return self._ckpt

    def _go(self) -> None:
        """To the end, or until the process is told to leave."""
        ckpt = self.ckpt
        while self.phase is not P.TRAINING_COMPLETE:
            after = self._do[self.phase]()
            done = self.phase
            self.phase = after if after in done.follows else done.then(after)
            # Nearly always nobody wants to know, and whatever is called here is called at each phase.
            if (done.is_saved_after or ckpt.may_stop) and after.is_resumable:
                self._offer(ckpt, done)
                if ckpt.may_stop and ckpt.should_stop:
                    return

    def _offer(self, ckpt: AsyncCheckpointer, done: TrainerPhase) -> None:
        """Between two phases: what is due is saved, and who was told to leave does.

        A checkpoint that is made here says `phase`, which comes next.
        """
        step, metrics = self.global_step, self.logs or None
        if done is P.TRAIN_BATCH_END and self._train.micro_step == 0:
            if ckpt.step(step, epoch=self.epoch) is not None:  # metrics are those of an epoch
                self._saved = step
            return
        if done is P.CHECKPOINT_SAVE_START:
            handle = ckpt.epoch_end(self.epoch, step=step, metrics=metrics)
            if handle is None and self._is_over:
                ckpt.save(step, epoch=self.epoch, metrics=metrics)
            elif handle is None and self._saved == step:  # before it was validated
                ckpt.record(step, self.logs)
        if ckpt.may_stop:
            ckpt.midstep(step, epoch=self.epoch, metrics=metrics)

    # -- an epoch of training ------------------------------------------------------------------------------

    def _start_epoch(self) -> TrainerPhase:
        self.callbacks.call("on_epoch_start", self, self.epoch + 1)
        self.model.train()
        self._gradients = Gradients(self.optimizers)  # there may be more parameters by now
        self._gradients.clear()
        self._train = TrainMicroState()
        self._batches.begin(self.epoch)
        return P.TRAIN_BATCH_LOAD

    def _train_batch(self) -> TrainerPhase:
        """Load a batch, and add its gradients to those that there are: until then it is in hand, and nobody leaves."""
        batch = self._batches.take()
        if batch is NONE_LEFT:
            return P.TRAIN_BATCH_OPTIM_STEP if self._train.micro_step else self._end_of_batches()
        micro, steps = self._train, self.config.gradient_accumulation_steps
        batch = self._batch = moved(batch, self.device)
        samples = samples_of(batch)
        if "on_batch_start" in self.callbacks.heard:
            self.callbacks.call("on_batch_start", self, micro.batch_idx)

        self.phase = P.TRAIN_BATCH_FORWARD
        step, index = self.training_step, micro.batch_idx
        given: Any = step(batch, index) if self.config.amp is None else self._autocast(step, index)
        # A plain dict is known as one at once; to ask an abstract class takes longer than all else here.
        if not isinstance(given, (dict, Mapping)) or not isinstance(given.get("loss"), Tensor):
            raise TrainerError(f"training_step() gave {given!r}: give a dict with a tensor as 'loss'")
        # As detach(), in half the time.
        micro.additional_metrics = {name: v.data if isinstance(v, Tensor) else v for name, v in given.items()}

        self.phase = P.TRAIN_BATCH_BACKWARD
        loss = given["loss"] if steps == 1 else given["loss"] / steps
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        micro.add(micro.additional_metrics["loss"], samples)
        self._batch = None
        return self._complete() if micro.micro_step >= steps else P.TRAIN_BATCH_END

    def _complete(self) -> TrainerPhase:
        """The rest of a step: its phases one right after the other, unless somebody may have to leave between them.

        Each way back to `_go`, after all that a phase goes through, is read from afar again: 8 us.
        """
        ckpt = self.ckpt
        for phase in STEPS:
            if ckpt.may_stop:
                return phase
            self.phase = phase
            self._do[phase]()
        return P.TRAIN_BATCH_LOAD

    def _step(self) -> TrainerPhase:
        scaler = self._scaler
        if scaler is not None:
            for optimizer in self.optimizers:
                scaler.unscale_(optimizer)
        usual, made = self.config.gradient_accumulation_steps, self._train.micro_step
        if made != usual:  # fewer batches than usual: the mean over those that there are
            self._gradients.scale(usual / made)
        if self.config.max_grad_norm is not None:
            self._train.additional_metrics["grad_norm"] = self._gradients.clip(self.config.max_grad_norm)
        for optimizer in self.optimizers:
            if scaler is None:
                optimizer.step()
            elif has_gradients(optimizer):  # it refuses one that it has not seen any of
                scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        self._gradients.clear()
        self.global_step += 1
        self._train.micro_step = 0
        self.logs = {}
        return P.SCHEDULER_BATCH_STEP

    def _schedule_step(self) -> TrainerPhase:
        if self.config.scheduler_interval == "step":
            for scheduler in self.schedulers:
                scheduler.step()
        return P.TRAIN_BATCH_END

    def _end_batch(self) -> TrainerPhase:
        micro = self._train
        if not self._batches.has_ended:  # else it was a step of what was left, without a batch of its own
            if "on_batch_end" in self.callbacks.heard:
                self.callbacks.call("on_batch_end", self, micro.batch_idx, micro.additional_metrics)
            micro.batch_idx += 1
        if micro.micro_step == 0 and self.global_step % self.config.log_every_n_steps == 0:
            values = {name: value for name, value in micro.additional_metrics.items() if is_amount(value)}
            self._told.log(self.global_step, {**values, "lr": self.optimizers[0].param_groups[0]["lr"]})
        return P.TRAIN_BATCH_LOAD

    def _end_of_batches(self) -> TrainerPhase:
        self.logs = self._train.means()
        if not self.logs:
            raise TrainerError(f"train_loader gave no batch in epoch {self.epoch + 1}: {self._batches.advice}")
        return P.VAL_START_EPOCH if self._has_validation else P.SCHEDULER_EPOCH_STEP

    # -- validation ----------------------------------------------------------------------------------------

    def _start_validation(self) -> TrainerPhase:
        self.model.eval()
        self._val = ValMicroState()
        self._val_batches.begin(self.epoch)
        return P.VAL_BATCH_LOAD

    def _load_validation(self) -> TrainerPhase:
        batch = self._val_batches.take()
        if batch is NONE_LEFT:
            if not self._val.batch_idx:
                logger.warning("val_loader gave no batch in epoch %d: %s", self.epoch + 1, self._val_batches.advice)
            self.logs |= self._val.means()
            return P.SCHEDULER_EPOCH_STEP
        self._batch = moved(batch, self.device)
        return P.VAL_BATCH_FORWARD

    def _validate(self) -> TrainerPhase:
        with torch.no_grad():
            given = self._autocast(self.validation_step, self._val.batch_idx)
        if not isinstance(given, Mapping):
            raise TrainerError(f"validation_step() gave {given!r}: give a dict of metrics")
        self._val.add(given, samples_of(self._batch))
        self._batch = None
        return P.VAL_BATCH_END

    def _end_validation_batch(self) -> TrainerPhase:
        self._val.batch_idx += 1
        return P.VAL_BATCH_LOAD

    # -- the end of an epoch -------------------------------------------------------------------------------

    def _schedule_epoch(self) -> TrainerPhase:
        if self.config.scheduler_interval == "epoch":
            for scheduler in self.schedulers:
                scheduler.step(*self._watched(scheduler))
        return P.EPOCH_END

    def _end_epoch(self) -> TrainerPhase:
        self.callbacks.call("on_epoch_end", self, self.epoch + 1, dict(self.logs))
        self._told.log(self.global_step, self.logs)
        if self.config.monitor[0] in self.logs:
            self.early.update(self.logs)
        elif self.epoch == 0:
            logger.warning(
                "%r is monitored, and is no metric: there is %s", self.config.monitor[0], ", ".join(self.logs)
            )
        self.epoch += 1
        return P.CHECKPOINT_SAVE_START

    def _next_epoch(self) -> TrainerPhase:
        return P.TRAINING_COMPLETE if self._is_over else P.TRAIN_START_EPOCH

    @property
    def _is_over(self) -> bool:
        stops_early = self.config.patience is not None and self.early.should_stop
        return self.epoch >= self.config.epochs or stops_early

    def _watched(self, scheduler: Any) -> tuple[float, ...]:
        """What a scheduler has to be told: one that follows a metric is told the monitored one."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            return ()
        name = self.config.monitor[0]
        if name not in self.logs:
            there = ", ".join(self.logs)
            raise TrainerError(f"ReduceLROnPlateau follows {name!r}, and there is only {there}: name one with monitor=")
        return (self.logs[name],)

    # -- small parts ---------------------------------------------------------------------------------------

    def _autocast(self, step: Callable[[Any, int], Mapping[str, Any]], batch_idx: int) -> Mapping[str, Any]:
        """`step` on the batch in hand."""
        if self.config.amp is None:
            return step(self._batch, batch_idx)
        with torch.autocast(self.device.type, dtype=getattr(torch, self.config.amp)):
            return step(self._batch, batch_idx)
