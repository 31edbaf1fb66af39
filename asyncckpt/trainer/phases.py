"""Phases: what a training can be doing, and what may follow.

::

    INIT -> TRAIN_START_EPOCH -> for each batch:  LOAD -> FORWARD -> BACKWARD -> BATCH_END
                                   for each step:    ... BACKWARD -> OPTIM_STEP -> SCHEDULER_BATCH_STEP -> BATCH_END
         -> VAL_START_EPOCH   -> for each batch:  LOAD -> FORWARD -> BATCH_END
         -> SCHEDULER_EPOCH_STEP -> EPOCH_END -> CHECKPOINT_SAVE_START -> CHECKPOINT_SAVE_END
         -> TRAIN_START_EPOCH | TRAINING_COMPLETE
"""

from __future__ import annotations

from enum import Enum

from asyncckpt.errors import TrainerError


class TrainerPhase(Enum):
    """One thing that a training does; in a checkpoint, the one that it does next. Values are the same for ever."""

    __hash__ = object.__hash__  # each is one object; Enum's own is Python code, and every phase is looked up

    INIT = "init"
    TRAIN_START_EPOCH = "train_start_epoch"
    TRAIN_BATCH_LOAD = "train_batch_load"
    TRAIN_BATCH_FORWARD = "train_batch_forward"
    TRAIN_BATCH_BACKWARD = "train_batch_backward"
    TRAIN_BATCH_OPTIM_STEP = "train_batch_optim_step"
    SCHEDULER_BATCH_STEP = "scheduler_batch_step"
    TRAIN_BATCH_END = "train_batch_end"
    VAL_START_EPOCH = "val_start_epoch"
    VAL_BATCH_LOAD = "val_batch_load"
    VAL_BATCH_FORWARD = "val_batch_forward"
    VAL_BATCH_END = "val_batch_end"
    SCHEDULER_EPOCH_STEP = "scheduler_epoch_step"
    EPOCH_END = "epoch_end"
    CHECKPOINT_SAVE_START = "checkpoint_save_start"
    CHECKPOINT_SAVE_END = "checkpoint_save_end"
    TRAINING_COMPLETE = "training_complete"
    ERROR_RECOVERABLE = "error_recoverable"
    ERROR_FATAL = "error_fatal"

    is_resumable: bool
    """Whether a checkpoint may say that this comes next: no batch is in hand then, and no graph of a loss."""
    is_saved_after: bool
    """Whether a policy may want a save once this is done; at other moments there may be notice."""
    follows: tuple[TrainerPhase, ...]
    """What may come next, beside an error."""

    @property
    def is_train(self) -> bool:
        """Whether it is about batches that are trained on."""
        return self in _TRAIN

    @property
    def is_val(self) -> bool:
        """Whether it is about batches that are validated on."""
        return self in _VAL

    @property
    def is_error(self) -> bool:
        """Whether the training was left by an exception."""
        return self in (TrainerPhase.ERROR_RECOVERABLE, TrainerPhase.ERROR_FATAL)

    @property
    def description(self) -> str:
        """In a few words."""
        return _WORDS[self]

    def then(self, phase: TrainerPhase) -> TrainerPhase:
        """`phase`, which comes next; raises `TrainerError` where it must not."""
        if phase in self.follows or (phase.is_error and self.follows):
            return phase
        known = ", ".join(sorted(each.name for each in self.follows)) or "nothing"
        raise TrainerError(f"{phase.name} cannot follow {self.name}: after that comes {known}")


_P = TrainerPhase

_TRAIN = frozenset(
    {
        _P.TRAIN_BATCH_LOAD,
        _P.TRAIN_BATCH_FORWARD,
        _P.TRAIN_BATCH_BACKWARD,
        _P.TRAIN_BATCH_OPTIM_STEP,
        _P.SCHEDULER_BATCH_STEP,
        _P.TRAIN_BATCH_END,
    }
)
_VAL = frozenset({_P.VAL_BATCH_LOAD, _P.VAL_BATCH_FORWARD, _P.VAL_BATCH_END})
_IN_HAND = frozenset({_P.TRAIN_BATCH_FORWARD, _P.TRAIN_BATCH_BACKWARD, _P.VAL_BATCH_FORWARD})
_OVER = frozenset({_P.TRAINING_COMPLETE, _P.ERROR_RECOVERABLE, _P.ERROR_FATAL})
_NEXT: dict[TrainerPhase, frozenset[TrainerPhase]] = {
    _P.INIT: frozenset({_P.TRAIN_START_EPOCH}),
    _P.TRAIN_START_EPOCH: frozenset({_P.TRAIN_BATCH_LOAD}),
    _P.TRAIN_BATCH_LOAD: frozenset(
        # The last batches of an epoch, where they are too few for a step, make one all the same.
        {_P.TRAIN_BATCH_FORWARD, _P.TRAIN_BATCH_OPTIM_STEP, _P.VAL_START_EPOCH, _P.SCHEDULER_EPOCH_STEP}
    ),
    _P.TRAIN_BATCH_FORWARD: frozenset({_P.TRAIN_BATCH_BACKWARD}),
    _P.TRAIN_BATCH_BACKWARD: frozenset({_P.TRAIN_BATCH_OPTIM_STEP, _P.TRAIN_BATCH_END}),
    _P.TRAIN_BATCH_OPTIM_STEP: frozenset({_P.SCHEDULER_BATCH_STEP}),
    _P.SCHEDULER_BATCH_STEP: frozenset({_P.TRAIN_BATCH_END}),
    _P.TRAIN_BATCH_END: frozenset({_P.TRAIN_BATCH_LOAD}),
    _P.VAL_START_EPOCH: frozenset({_P.VAL_BATCH_LOAD}),
    _P.VAL_BATCH_LOAD: frozenset({_P.VAL_BATCH_FORWARD, _P.SCHEDULER_EPOCH_STEP}),
    _P.VAL_BATCH_FORWARD: frozenset({_P.VAL_BATCH_END}),
    _P.VAL_BATCH_END: frozenset({_P.VAL_BATCH_LOAD}),
    _P.SCHEDULER_EPOCH_STEP: frozenset({_P.EPOCH_END}),
    _P.EPOCH_END: frozenset({_P.CHECKPOINT_SAVE_START}),
    _P.CHECKPOINT_SAVE_START: frozenset({_P.CHECKPOINT_SAVE_END}),
    _P.CHECKPOINT_SAVE_END: frozenset({_P.TRAIN_START_EPOCH, _P.TRAINING_COMPLETE}),
    _P.TRAINING_COMPLETE: frozenset(),
    _P.ERROR_RECOVERABLE: frozenset(),
    _P.ERROR_FATAL: frozenset(),
}

for _phase in TrainerPhase:  # asked of every phase, so that it is no call
    _phase.is_resumable = _phase not in _IN_HAND | _OVER
    _phase.is_saved_after = _phase in (_P.TRAIN_BATCH_END, _P.CHECKPOINT_SAVE_START)
    _phase.follows = tuple(_NEXT[_phase])

_WORDS: dict[TrainerPhase, str] = {
    _P.INIT: "nothing has begun",
    _P.TRAIN_START_EPOCH: "an epoch begins",
    _P.TRAIN_BATCH_LOAD: "the next batch is loaded",
    _P.TRAIN_BATCH_FORWARD: "the model is applied to a batch",
    _P.TRAIN_BATCH_BACKWARD: "gradients are added up",
    _P.TRAIN_BATCH_OPTIM_STEP: "the optimizers make a step",
    _P.SCHEDULER_BATCH_STEP: "schedulers that count steps go on",
    _P.TRAIN_BATCH_END: "a batch is over",
    _P.VAL_START_EPOCH: "validation begins",
    _P.VAL_BATCH_LOAD: "the next batch for validation is loaded",
    _P.VAL_BATCH_FORWARD: "the model is validated on a batch",
    _P.VAL_BATCH_END: "a batch for validation is over",
    _P.SCHEDULER_EPOCH_STEP: "schedulers that count epochs go on",
    _P.EPOCH_END: "an epoch is over",
    _P.CHECKPOINT_SAVE_START: "the end of the epoch is saved, where that is due",
    _P.CHECKPOINT_SAVE_END: "it is seen whether another epoch follows",
    _P.TRAINING_COMPLETE: "the training is over",
    _P.ERROR_RECOVERABLE: "the training was interrupted, and can go on in another process",
    _P.ERROR_FATAL: "the training failed",
}
