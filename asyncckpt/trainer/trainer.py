"""GenericTrainer: a training loop that is saved as it runs, and can leave and go on between any two of its phases.

The loop itself is in `asyncckpt.trainer.loop`. Here is what connects it to the runtime: `GenericTrainer.fit` opens the
run and the checkpointer, and `state_dict` says what a checkpoint has to hold beside model, optimizers and schedulers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from asyncckpt import AsyncCheckpointer, Preempted, Run, load
from asyncckpt.errors import CheckpointNotFoundError, IncompatibleState, TrainerError
from asyncckpt.launch.config import ExperimentConfig
from asyncckpt.run import set_seed
from asyncckpt.run.reference import reference
from asyncckpt.state.wrappers import unwrap
from asyncckpt.trackers import JsonLinesTracker, Tracker, WandbTracker
from asyncckpt.trainer.amounts import is_amount, kept, moved
from asyncckpt.trainer.batches import Batches
from asyncckpt.trainer.callbacks import TrainingCallback
from asyncckpt.trainer.config import GenericTrainerConfig
from asyncckpt.trainer.gradients import Gradients
from asyncckpt.trainer.loop import STEPS, Loop
from asyncckpt.trainer.modes import modes, set_modes
from asyncckpt.trainer.phases import TrainerPhase
from asyncckpt.trainer.resume_state import ResumeState, RNGState, TrainMicroState, ValMicroState

logger = logging.getLogger("asyncckpt")

P = TrainerPhase


class GenericTrainer(Loop):
    """Trains a model as `config` says: override `training_step` and `validation_step`, and `checkpointer` if need be.

    While it trains, ``model``, ``optimizers``, ``schedulers``, ``device``, ``ckpt`` and ``run`` are there, and
    ``phase``, ``epoch`` (completed epochs), ``global_step`` (completed optimizer steps) and ``logs`` (the metrics of
    the epoch that is over) say where it stands. One trainer fits once.
    """

    def __init__(self, config: GenericTrainerConfig | ExperimentConfig) -> None:
        ours = GenericTrainerConfig.of(config) if isinstance(config, ExperimentConfig) else config
        if not isinstance(ours, GenericTrainerConfig):
            raise TypeError(
                f"config is {ours!r}: give a GenericTrainerConfig or an ExperimentConfig, which "
                "ConfigurationManager.load_experiment makes of a file"
            )
        super().__init__(ours)
        self.run: Run | None = None
        """The run, once there is one."""
        self._found: Mapping[str, Any] | None = None
        self._random: RNGState | None = None
        """Where random numbers go on, if another process has drawn some."""

    # -- what to override ----------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        """What the model makes of `batch`: a dict with at least ``"loss"``, the mean over the batch.

        By default the model is called with the batch, a mapping by keyword and a sequence in order, and returns the
        loss, or something that has one.
        """
        if isinstance(batch, Mapping):
            out = self.model(**batch)
        else:
            out = self.model(*batch) if isinstance(batch, list | tuple) else self.model(batch)
        if isinstance(out, Mapping):
            return out
        return {"loss": getattr(out, "loss", out)}

    def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        """The metrics of `batch`, each the mean over it; by default the numbers that `training_step` gives.

        They are averaged over samples, and called ``val_...``.
        """
        return {name: value for name, value in self.training_step(batch, batch_idx).items() if is_amount(value)}

    def checkpointer(self, run: Run, objects: Mapping[str, Any]) -> AsyncCheckpointer:
        """The checkpointer of `run` for these `objects`; override it to give it more than the configuration says."""
        config = self.config
        return AsyncCheckpointer(
            run,
            **objects,
            save=config.save,
            keep=config.keep,
            monitor=config.monitor,
            preemption=config.preemption,
        )

    def trackers(self, run: Run) -> Iterable[Tracker]:
        """Who is told the metrics; what one of them fails of stops nothing."""
        yield JsonLinesTracker(f"{run.url}/logs", storage_options=run.storage_options)
        if self.config.use_wandb:
            yield WandbTracker(project=self.config.wandb_project, entity=self.config.wandb_entity)

    def add_callback(self, callback: TrainingCallback) -> None:
        """Call it too, after those that are there."""
        self.callbacks.add(callback)

    # -- training ------------------------------------------------------------------------------------------

    def fit(
        self,
        model: nn.Module,
        optimizer: Optimizer | list[Optimizer],
        train_loader: Iterable[Any],
        val_loader: Iterable[Any] | None = None,
        scheduler: Any = None,
    ) -> None:
        """Train, or go on where an earlier process left: at the newest checkpoint in ``config.checkpoint_dir``.

        A training that is over is left as it is. `optimizer` and `scheduler` may be several. With a `Preemption` that
        raises, `Preempted` leaves it when the process was told to; with ``exit="flag"`` it returns. Raises
        `TrainerError` for what a loop cannot go on with, and what the checkpointer raises.
        """
        if self._ckpt is not None:
            raise TrainerError("this trainer has trained: make a new one, with the same configuration")
        config = self.config
        self.model, self.optimizers, self.schedulers = model, _listed(optimizer), _listed(scheduler)
        _check(model, self.optimizers, self.schedulers)
        self._has_validation = val_loader is not None
        _check_plateaus(self.schedulers, config, has_validation=self._has_validation)
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._gradients = Gradients(self.optimizers)
        self._scaler = torch.amp.GradScaler(self.device.type) if config.amp == "float16" else None
        self._batches = Batches(train_loader, "train_loader")
        self._val_batches = Batches(() if val_loader is None else val_loader, "val_loader")
        objects = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler or None,
            "scaler": self._scaler,
            "extra": {"trainer": self},
        }
        with ExitStack() as stack:
            stack.enter_context(_reproducible(config))
            run = stack.enter_context(Run.open(config.checkpoint_dir, config=config.whole(), mode="auto"))
            self.run, self._told = run, run.trackers(*self.trackers(run))
            self._ckpt = stack.enter_context(self.checkpointer(run, objects))
            self._resume(run)
            self._train_and_tell()

    def _train_and_tell(self) -> None:
        self.callbacks.call("on_training_start", self)
        if self._random is not None:
            self._random.restore()  # what a hook of each process has drawn, no other process has
        try:
            self._go()
        except (Preempted, KeyboardInterrupt):
            self.phase = self.phase.then(P.ERROR_RECOVERABLE)
            raise
        except BaseException:
            self.phase = self.phase.then(P.ERROR_FATAL)
            raise
        finally:
            self.callbacks.call("on_training_end", self, {**self.logs, "phase": self.phase.value})

    def _resume(self, run: Run) -> None:
        try:
            is_new = self.ckpt.resume() is None
        except IncompatibleState as error:
            error.add_note(
                f"Another training begins in another checkpoint_dir; resume_from={run.url!r} has these weights."
            )
            raise
        if is_new:
            self._start(run)
            return
        if self._found is None:
            raise TrainerError(f"the checkpoints in {run.url} are no trainer's: train elsewhere")
        state = ResumeState.from_dict(self._found["resume"])
        over = state.phase is P.TRAINING_COMPLETE  # there may be more epochs to make by now
        self.phase = P.CHECKPOINT_SAVE_END if over else state.phase
        self.epoch, self.global_step, self.logs = state.epoch, state.global_step, state.logs
        self._saved = self.global_step
        self._train, self._val = state.train or TrainMicroState(), state.val or ValMicroState()
        if self.phase.is_val and not self._has_validation:
            logger.warning("it was left in the middle of a validation, and has no val_loader now: that is left out")
            self.phase = P.SCHEDULER_EPOCH_STEP
        self._place(self._found)
        self._random = state.rng
        if state.rng is not None:
            state.rng.restore()  # last: to place batches draws numbers
        logger.info("after step %d, %d epochs: next, %s", self.global_step, self.epoch, self.phase.description)

    def _start(self, run: Run) -> None:
        """With another root's weights, and nothing else of it, where one was named."""
        if run.start_from is None:
            return
        weights = load(*run.start_from, only="model").state["model"]
        try:
            cast(nn.Module, unwrap(self.model)).load_state_dict(weights, strict=self.config.strict)
        except RuntimeError as error:
            way = "strict=False takes what both have" if self.config.strict else "shapes have to be the same"
            raise TrainerError(
                f"resume_from={self.config.resume_from}: these are weights of another model, {way}: {error}"
            ) from error

    def _place(self, found: Mapping[str, Any]) -> None:
        if self._scaler is not None:
            self._scaler.scale(torch.zeros((), device=self.device))  # it has its numbers once it was asked for a loss
        if self.global_step:
            for optimizer in self.optimizers:  # it has stepped, elsewhere: else torch warns of the first schedule
                vars(optimizer)["_opt_called"] = True
        set_modes(self.model, found["modes"])
        if found["given"]:
            self._train.additional_metrics = moved(found["given"], self.device)
        self._gradients.load_state_dict(found["gradients"])
        if found["accumulation"] != self.config.gradient_accumulation_steps:  # each has a part in the mean of so many
            self._gradients.scale(found["accumulation"] / self.config.gradient_accumulation_steps)
        self.callbacks.load_state_dict(found["callbacks"])
        self.callbacks.load_told(found["told"])
        if (found["early"]["metric"], found["early"]["mode"]) == tuple(self.config.monitor):
            self.early.load_state_dict(found["early"])
        self._batches.place(found["batches"], self.epoch)
        if self._has_validation and found["val_batches"] is not None:
            self._val_batches.place(found["val_batches"], self.epoch)

    # -- among what a checkpoint holds ---------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the loop stands, as plain data, and the tensors that it holds then: gradients, of a part of a step."""
        has_part = self.phase.is_train and self._train.micro_step > 0
        state = ResumeState(
            phase=self.phase,
            epoch=self.epoch,
            global_step=self.global_step,
            train=self._train,
            val=self._val,
            logs=self.logs,
        )
        return {
            "resume": state.of_now().to_dict(),
            "batches": self._batches.state_dict(),
            "val_batches": self._val_batches.state_dict() if self._has_validation else None,
            "gradients": self._gradients.state_dict() if has_part else {},
            "accumulation": self.config.gradient_accumulation_steps,
            "given": kept(self._train.additional_metrics) if self.phase in STEPS else {},
            "modes": modes(self.model),
            "early": self.early.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            "told": self.callbacks.told(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep it until everything else is restored."""
        self._found = state_dict

    # -- by hand -------------------------------------------------------------------------------------------

    def save_checkpoint(self, emergency: bool = False) -> Path | str:
        """Save now, from a callback, and wait until that is durable; returns its folder, or ``URL@ID`` of a URL.

        An `emergency` goes before everything that is under way, and has the deadline of `Preemption`; what takes longer
        raises `PreemptionTimeoutError`. Another has `save_timeout`, and `CheckpointTimeoutError`: it goes on all the
        same. Raises `TrainerError` where there is no checkpointer, or a batch is in hand.
        """
        if self._batch is not None or not (self.phase.is_resumable or self.phase is P.TRAINING_COMPLETE):
            raise TrainerError(f"{self.phase.name} is no phase to save in: that goes in a callback between two batches")
        deadline = self.config.preemption.deadline if emergency and self.config.preemption else None
        handle = self.ckpt.save(
            self.global_step, epoch=self.epoch, metrics=self.logs or None, emergency=emergency, deadline=deadline
        )
        info = handle.wait(None if emergency else self.config.save_timeout)
        folders = Path(self.config.checkpoint_dir, "data").glob(f"{info.id}-*")
        return next(folders, None) or f"{os.fspath(self.config.checkpoint_dir)}@{info.id}"

    def load_checkpoint(self, checkpoint_path: str | os.PathLike[str] | None = None) -> ResumeState | None:
        """Where the training stood in a checkpoint, by its folder, its root, or ``root@id``; by default the newest.

        Changes nothing; `fit` goes on from the newest by itself. None where there is no newest; raises
        `CheckpointNotFoundError` for one that was named and is not there.
        """
        root = os.fspath(self.config.checkpoint_dir)
        named = None if checkpoint_path is None else reference(os.fspath(checkpoint_path), root)
        try:
            found = load((named and named.root) or root, named.which if named else "latest", only="extra.trainer")
        except CheckpointNotFoundError:
            if named is None:
                return None
            raise
        return ResumeState.from_dict(found.state["extra"]["trainer"]["resume"])


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _check(model: Any, optimizers: list[Any], schedulers: list[Any]) -> None:
    """Refuse what would go wrong after the first batch, or the first epoch."""
    if not isinstance(model, nn.Module):
        raise TrainerError(f"model is {type(model).__name__}: give a torch.nn.Module")
    for name, given, method in (("optimizer", optimizers, "param_groups"), ("scheduler", schedulers, "step")):
        if wrong := [type(each).__name__ for each in given if not hasattr(each, method)]:
            raise TrainerError(f"{name} is {', '.join(wrong)}: give one {name}, or a list of them")
    if not optimizers:
        raise TrainerError("optimizer is nothing: give one optimizer, or a list of them")
    if any(isinstance(each, torch.optim.LBFGS) for each in optimizers):
        raise TrainerError("LBFGS makes several passes in a step, and this loop makes one: use another optimizer")


def _check_plateaus(schedulers: list[Any], config: GenericTrainerConfig, *, has_validation: bool) -> None:
    """Refuse a schedule that follows a metric which there will not be."""
    if not any(isinstance(each, ReduceLROnPlateau) for each in schedulers):
        return
    if config.scheduler_interval == "step":
        raise TrainerError(
            "ReduceLROnPlateau follows a metric, of which each epoch has one: use scheduler_interval='epoch'"
        )
    if not has_validation and config.monitor[0] != "loss":
        raise TrainerError(
            f"ReduceLROnPlateau follows {config.monitor[0]!r}, and without a val_loader there is only loss: give "
            "one, or monitor=('loss', 'min')"
        )


@contextmanager
def _reproducible(config: GenericTrainerConfig) -> Iterator[None]:
    """Seed, before anything is restored, and have torch do the same each time; it is as before at the end."""
    deterministic = config.deterministic
    if deterministic and config.benchmark:
        logger.warning("deterministic and benchmark contradict each other: algorithms are deterministic")
    cudnn, fill = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    before = cudnn.deterministic, cudnn.benchmark, fill.fill_uninitialized_memory
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    set_seed(config.seed, deterministic=deterministic)
    cudnn.deterministic, cudnn.benchmark = deterministic, config.benchmark and not deterministic
    if deterministic:
        fill.fill_uninitialized_memory = False  # every new tensor would be written twice
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])
        cudnn.deterministic, cudnn.benchmark, fill.fill_uninitialized_memory = before
